/* cgroup_storage and percpu_cgroup_storage: what each cgroup sent, in a place that the kernel finds by the attachment. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct sent {
  __u64 packets;
  __u64 bytes;
};

struct {
  __uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
  __type(key, struct bpf_cgroup_storage_key);
  __type(value, struct sent);
} of_cgroup SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
  __type(key, struct bpf_cgroup_storage_key);
  __type(value, struct sent);
} of_cgroup_by_cpu SEC(".maps");

SEC("cgroup_skb/egress")
int account(struct __sk_buff *skb) {
  struct sent *all = bpf_get_local_storage(&of_cgroup, 0);
  struct sent *own = bpf_get_local_storage(&of_cgroup_by_cpu, 0);
  __sync_fetch_and_add(&all->packets, 1);
  __sync_fetch_and_add(&all->bytes, skb->len);
  own->packets += 1;
  own->bytes += skb->len;
  return 1;
}

char _license[] SEC("license") = "GPL";
