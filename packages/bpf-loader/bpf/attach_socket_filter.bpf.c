/* socket_filter: counts the ICMP packets of an interface (0) and others (1), keeps none. */
#include <stddef.h>
#include "counters.h"
#include "packet.h"

SEC("socket")
int tap(struct __sk_buff *skb) {
  __u8 protocol = 0;
  if (skb->protocol == bpf_htons(ETH_P_IP)) bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, protocol), &protocol, 1);
  count(protocol == IPPROTO_ICMP ? 0 : 1);
  return 0;
}

char _license[] SEC("license") = "GPL";
