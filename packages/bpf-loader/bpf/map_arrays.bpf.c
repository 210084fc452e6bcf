/* array and percpu_array: a histogram of packet lengths by powers of two, and one of each cpu. */
#include "packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u64);
} lengths SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u32);
} lengths_by_cpu SEC(".maps");

SEC("xdp")
int histogram(struct xdp_md *ctx) {
  __u32 length = DATA_END(ctx) - DATA(ctx);
  __u32 slot = 0;
  for (int bit = 1; bit < 16; bit++)
    if (length >> bit) slot = bit;
  __u64 *all = bpf_map_lookup_elem(&lengths, &slot);
  __u32 *own = bpf_map_lookup_elem(&lengths_by_cpu, &slot);
  if (all) __sync_fetch_and_add(all, 1);
  if (own) *own += 1;
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
