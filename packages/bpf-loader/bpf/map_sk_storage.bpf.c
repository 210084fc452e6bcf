/* sk_storage: each socket's own count of packets sent; the highest one seen goes to the counter. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} sent SEC(".maps");

__u64 sockets;
__u64 highest;

SEC("cgroup_skb/egress")
int account(struct __sk_buff *skb) {
  struct bpf_sock *sk = skb->sk;
  if (!sk) return 1;
  sk = bpf_sk_fullsock(sk);
  if (!sk) return 1;
  __u64 *value = bpf_sk_storage_get(&sent, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!value) return 1;
  if (*value == 0) __sync_fetch_and_add(&sockets, 1);
  *value += 1;
  if (*value > highest) highest = *value;
  return 1;
}

char _license[] SEC("license") = "GPL";
