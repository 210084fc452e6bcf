/* hash, percpu_hash, lru_hash, lru_percpu_hash: packets and bytes of each flow, by a key and a value that are structs. */
#include "packet.h"

struct flow {
  __be32 source;
  __be32 target;
  __u8 protocol;
  __u8 padding[3];
};

struct traffic {
  __u64 packets;
  __u64 bytes;
  enum { FIRST_SMALL, FIRST_LARGE } first;
};

#define FLOWS(name, kind)            \
  struct {                           \
    __uint(type, kind);              \
    __uint(max_entries, 128);        \
    __type(key, struct flow);        \
    __type(value, struct traffic);   \
  } name SEC(".maps")

FLOWS(by_hash, BPF_MAP_TYPE_HASH);
FLOWS(by_cpu_hash, BPF_MAP_TYPE_PERCPU_HASH);
FLOWS(by_lru_hash, BPF_MAP_TYPE_LRU_HASH);
FLOWS(by_lru_cpu_hash, BPF_MAP_TYPE_LRU_PERCPU_HASH);

static __always_inline void add(void *map, const struct flow *flow, __u64 bytes) {
  struct traffic *traffic = bpf_map_lookup_elem(map, flow);
  if (traffic) {
    __sync_fetch_and_add(&traffic->packets, 1);
    __sync_fetch_and_add(&traffic->bytes, bytes);
    return;
  }
  struct traffic first = {.packets = 1, .bytes = bytes, .first = bytes > 1000 ? FIRST_LARGE : FIRST_SMALL};
  bpf_map_update_elem(map, flow, &first, BPF_ANY);
}

SEC("xdp")
int account(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  struct flow flow = {.source = frame.ip->saddr, .target = frame.ip->daddr, .protocol = frame.ip->protocol};
  __u64 bytes = DATA_END(ctx) - DATA(ctx);
  add(&by_hash, &flow, bytes);
  add(&by_cpu_hash, &flow, bytes);
  add(&by_lru_hash, &flow, bytes);
  add(&by_lru_cpu_hash, &flow, bytes);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
