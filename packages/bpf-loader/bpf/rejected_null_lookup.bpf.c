/* Rejected: uses a looked-up value without asking whether there is one. */
#include "counters.h"

SEC("xdp")
int trusting(struct xdp_md *ctx) {
  __u32 slot = ctx->rx_queue_index;
  __u64 *value = bpf_map_lookup_elem(&counters, &slot);
  return *value > 3 ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
