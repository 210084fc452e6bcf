/* XDP_TX: answers ping itself, before the kernel sees it. */
#include "counters.h"
#include "packet.h"

struct icmp_header {
  __u8 type;
  __u8 code;
  __be16 checksum;
};

SEC("xdp")
int echo(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0 || frame.ip->protocol != IPPROTO_ICMP) return XDP_PASS;
  struct icmp_header *icmp = (void *)(frame.ip + 1);
  if ((void *)(icmp + 1) > frame.end || icmp->type != 8) return XDP_PASS;
  __u8 mac[6];
  __builtin_memcpy(mac, frame.eth->h_source, 6);
  __builtin_memcpy(frame.eth->h_source, frame.eth->h_dest, 6);
  __builtin_memcpy(frame.eth->h_dest, mac, 6);
  __be32 address = frame.ip->saddr;
  frame.ip->saddr = frame.ip->daddr;
  frame.ip->daddr = address;
  icmp->type = 0;
  /* One's complement: the type fell by 8, so the sum grows by 8 in the high byte. */
  __u32 sum = bpf_ntohs(icmp->checksum) + 0x0800;
  icmp->checksum = bpf_htons((sum & 0xffff) + (sum >> 16));
  count(0);
  return XDP_TX;
}

char _license[] SEC("license") = "GPL";
