/* lpm_trie: the longest prefix of the source address decides: 0 drops, 1 passes, nothing found passes. */
#include "counters.h"
#include "packet.h"

struct prefix {
  __u32 length;
  struct in_addr address;
};

enum verdict { DENY, ALLOW };

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 64);
  __type(key, struct prefix);
  __type(value, enum verdict);
} rules SEC(".maps");

SEC("xdp")
int by_prefix(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  struct prefix key = {.length = 32, .address.s_addr = frame.ip->saddr};
  enum verdict *verdict = bpf_map_lookup_elem(&rules, &key);
  if (!verdict) {
    count(2);
    return XDP_PASS;
  }
  count(*verdict == DENY ? 0 : 1);
  return *verdict == DENY ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
