/* hash_of_maps and array_of_maps with inner maps by declaration: packets by protocol go to that protocol's own map. */
#include "packet.h"

struct tally {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} icmp_tally SEC(".maps"), udp_tally SEC(".maps"), every_tally SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
  __uint(max_entries, 8);
  __type(key, __u32);
  __array(values, struct tally);
} by_protocol SEC(".maps") = {
    .values = {(void *)&icmp_tally, (void *)&icmp_tally},
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 2);
  __type(key, __u32);
  __array(values, struct tally);
} by_place SEC(".maps") = {
    .values = {[0] = (void *)&every_tally, [1] = (void *)&udp_tally},
};

static __always_inline void add(void *outer, __u32 key) {
  __u32 zero = 0;
  void *inner = bpf_map_lookup_elem(outer, &key);
  if (!inner) return;
  __u64 *value = bpf_map_lookup_elem(inner, &zero);
  if (value) __sync_fetch_and_add(value, 1);
}

SEC("xdp")
int sort(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  add(&by_protocol, frame.ip->protocol);
  add(&by_place, 0);
  if (frame.ip->protocol == IPPROTO_UDP) add(&by_place, 1);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
