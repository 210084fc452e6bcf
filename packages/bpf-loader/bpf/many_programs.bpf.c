/* Several programs of several types in one object, on one map. */
#include <linux/pkt_cls.h>
#include "counters.h"

SEC("xdp")
int at_xdp(struct xdp_md *ctx) {
  count(0);
  return XDP_PASS;
}

SEC("tc")
int at_tc(struct __sk_buff *skb) {
  count(1);
  return TC_ACT_OK;
}

SEC("cgroup_skb/egress")
int at_cgroup(struct __sk_buff *skb) {
  count(2);
  return 1;
}

SEC("socket")
int at_socket(struct __sk_buff *skb) {
  count(3);
  return 0;
}

SEC("tracepoint/sched/sched_process_exec")
int at_exec(void *ctx) {
  count(4);
  return 0;
}

char _license[] SEC("license") = "GPL";
