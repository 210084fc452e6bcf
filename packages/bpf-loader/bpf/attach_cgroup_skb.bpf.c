/* cgroup_skb: blocks ICMP between a cgroup and one address, each direction by its own program; 0 and 1 passed and dropped on the
 * way out, 2 and 3 on the way in. Packets start at the network header here. */
#include "counters.h"
#include "packet.h"

const volatile __be32 target_ip;

static __always_inline int is_ipv4_icmp(struct __sk_buff *skb, struct iphdr *ip) {
  if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, 0, ip, sizeof(*ip)) != 0) return 0;
  return ip->protocol == IPPROTO_ICMP;
}

SEC("cgroup_skb/egress")
int block_out(struct __sk_buff *skb) {
  struct iphdr ip;
  int drop = is_ipv4_icmp(skb, &ip) && ip.daddr == target_ip;
  count(drop ? 1 : 0);
  return drop ? 0 : 1;
}

SEC("cgroup_skb/ingress")
int block_in(struct __sk_buff *skb) {
  struct iphdr ip;
  int drop = is_ipv4_icmp(skb, &ip) && ip.saddr == target_ip;
  count(drop ? 3 : 2);
  return drop ? 0 : 1;
}

char _license[] SEC("license") = "GPL";
