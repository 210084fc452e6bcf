/* bloom_filter: sources met before (1), and those that are new (0). */
#include "counters.h"
#include "packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
  __uint(max_entries, 1000);
  __uint(map_extra, 3);
  __type(value, __u32);
} met SEC(".maps");

SEC("xdp")
int acquaint(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  __u32 source = frame.ip->saddr;
  if (bpf_map_peek_elem(&met, &source) == 0) {
    count(1);
  } else {
    count(0);
    bpf_map_push_elem(&met, &source, 0);
  }
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
