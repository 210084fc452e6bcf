/* netfilter: drops ICMP from one address. */
#include "counters.h"
#include "packet.h"

struct nf_hook_state;
struct sk_buff;
struct bpf_nf_ctx {
  const struct nf_hook_state *state;
  struct sk_buff *skb;
} __attribute__((preserve_access_index));

extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *result) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *from, __u32 offset, void *buffer, __u32 size) __ksym;

const volatile __be32 source_ip;

#define NF_DROP 0
#define NF_ACCEPT 1

SEC("netfilter")
int no_icmp(struct bpf_nf_ctx *ctx) {
  struct bpf_dynptr packet;
  struct iphdr buffer = {};
  if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &packet) != 0) return NF_ACCEPT;
  struct iphdr *ip = bpf_dynptr_slice(&packet, 0, &buffer, sizeof(buffer));
  if (!ip || ip->version != 4 || ip->protocol != IPPROTO_ICMP || ip->saddr != source_ip) {
    count(0);
    return NF_ACCEPT;
  }
  count(1);
  return NF_DROP;
}

char _license[] SEC("license") = "GPL";
