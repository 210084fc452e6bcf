/* Rejected: takes a spin lock and returns with it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct guarded {
  struct bpf_spin_lock lock;
  __u32 value;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct guarded);
} state SEC(".maps");

SEC("tc")
int holds_on(struct __sk_buff *skb) {
  __u32 zero = 0;
  struct guarded *guarded = bpf_map_lookup_elem(&state, &zero);
  if (!guarded) return 0;
  bpf_spin_lock(&guarded->lock);
  guarded->value++;
  return 0;
}

char _license[] SEC("license") = "GPL";
