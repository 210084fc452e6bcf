/* queue and stack: the number of each packet is pushed on both; every fourth packet takes one from each. */
#include "packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 64);
  __type(value, __u32);
} waiting SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK);
  __uint(max_entries, 64);
  __type(value, __u32);
} piled SEC(".maps");

__u32 packets, from_queue, from_stack;

SEC("xdp")
int push(struct xdp_md *ctx) {
  __u32 number = __sync_fetch_and_add(&packets, 1) + 1;
  bpf_map_push_elem(&waiting, &number, 0);
  bpf_map_push_elem(&piled, &number, 0);
  if (number % 4 == 0) {
    __u32 taken = 0;
    if (bpf_map_pop_elem(&waiting, &taken) == 0) from_queue = taken;
    if (bpf_map_pop_elem(&piled, &taken) == 0) from_stack = taken;
  }
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
