/* xdp: drops ICMP to one address, counts what passes (0) and what does not (1). */
#include "counters.h"
#include "packet.h"

const volatile __be32 target_ip;

SEC("xdp")
int block_icmp(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) == 0 && frame.ip->protocol == IPPROTO_ICMP && frame.ip->daddr == target_ip) {
    count(1);
    return XDP_DROP;
  }
  count(0);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
