/* tc rewriting with checksums: packets to `front_ip` go to `back_ip`, answers come back the other way. */
#include <stddef.h>
#include "counters.h"
#include "packet.h"

const volatile __be32 front_ip;
const volatile __be32 back_ip;

#define IP_AT ETH_HLEN
#define UDP_CHECK (ETH_HLEN + sizeof(struct iphdr) + offsetof(struct udphdr, check))

static __always_inline int rewrite(struct __sk_buff *skb, __u32 field, __be32 from, __be32 to, __u32 slot) {
  __be32 old;
  __u8 protocol;
  if (skb->protocol != bpf_htons(ETH_P_IP)) return 0;
  if (bpf_skb_load_bytes(skb, IP_AT + field, &old, sizeof(old)) != 0 || old != from) return 0;
  if (bpf_skb_load_bytes(skb, IP_AT + offsetof(struct iphdr, protocol), &protocol, 1) != 0) return 0;
  if (protocol == IPPROTO_UDP) bpf_l4_csum_replace(skb, UDP_CHECK, old, to, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | sizeof(to));
  bpf_l3_csum_replace(skb, IP_AT + offsetof(struct iphdr, check), old, to, sizeof(to));
  bpf_skb_store_bytes(skb, IP_AT + field, &to, sizeof(to), 0);
  count(slot);
  return 0;
}

SEC("tc")
int outwards(struct __sk_buff *skb) { return rewrite(skb, offsetof(struct iphdr, daddr), front_ip, back_ip, 0); }

SEC("tc")
int inwards(struct __sk_buff *skb) { return rewrite(skb, offsetof(struct iphdr, saddr), back_ip, front_ip, 1); }

char _license[] SEC("license") = "GPL";
