/* Rejected: reads a packet without asking where it ends. */
#include "packet.h"

SEC("xdp")
int careless(struct xdp_md *ctx) {
  struct ethhdr *eth = DATA(ctx);
  return eth->h_proto == bpf_htons(ETH_P_IP) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
