/* The engine's tests: one filter for three hooks. It drops UDP to `blocked_port` and counts what it dropped and let pass in a map
 * that is to be kept; `version` tells revisions apart, and each leaves its mark in `versions`. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 version = 0;
const volatile __be16 blocked_port = 0;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, __u64);
} kept_counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} own_counts SEC(".maps");

enum { DROPPED = 1000000, PASSED = 1000001 };

static __always_inline void count(void *map, __u32 key) {
  __u64 one = 1;
  __u64 *value = bpf_map_lookup_elem(map, &key);
  if (value)
    __sync_fetch_and_add(value, 1);
  else if (bpf_map_update_elem(map, &key, &one, BPF_NOEXIST) != 0 && (value = bpf_map_lookup_elem(map, &key)))
    __sync_fetch_and_add(value, 1);
}

/* Whether this IPv4 packet is to be dropped. */
static __always_inline int blocked(struct iphdr *ip, void *end) {
  if ((void *)(ip + 1) > end || ip->version != 4 || ip->protocol != IPPROTO_UDP) return 0;
  struct udphdr *udp = (void *)(ip + 1);
  if ((void *)(udp + 1) > end) return 0;
  int drop = udp->dest == blocked_port;
  count(&kept_counts, drop ? DROPPED : PASSED);
  count(&own_counts, version);
  return drop;
}

static __always_inline int blocked_frame(void *data, void *end) {
  struct ethhdr *eth = data;
  if ((void *)(eth + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP)) return 0;
  return blocked((void *)(eth + 1), end);
}

SEC("xdp")
int xdp_filter(struct xdp_md *ctx) {
  return blocked_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP : XDP_PASS;
}

/* The same by another name: what a version that renames its function looks like. */
SEC("xdp")
int xdp_renamed(struct xdp_md *ctx) {
  return blocked_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP : XDP_PASS;
}

SEC("classifier/filter")
int tc_filter(struct __sk_buff *skb) {
  return blocked_frame((void *)(long)skb->data, (void *)(long)skb->data_end) ? TC_ACT_SHOT : -1;
}

SEC("classifier/other")
int tc_other(struct __sk_buff *skb) {
  return blocked_frame((void *)(long)skb->data, (void *)(long)skb->data_end) ? TC_ACT_SHOT : -1;
}

SEC("cgroup_skb/ingress")
int skb_filter(struct __sk_buff *skb) {
  return !blocked((void *)(long)skb->data, (void *)(long)skb->data_end);
}

SEC("tp/syscalls/sys_enter_getpgid")
int trace_getpgid(void *ctx) {
  count(&own_counts, version);
  return 0;
}

SEC("raw_tp/sys_enter")
int raw_any(void *ctx) {
  return 0;
}

SEC("socket")
int socket_count(struct __sk_buff *skb) {
  count(&own_counts, version);
  return 0;
}

SEC("netfilter")
int nf_filter(void *ctx) {
  count(&own_counts, version);
  return 1;
}

SEC("sk_lookup")
int lookup_any(struct bpf_sk_lookup *ctx) {
  return SK_PASS;
}

char _license[] SEC("license") = "GPL";
