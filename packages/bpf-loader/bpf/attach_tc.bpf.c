/* tcx and clsact: each program appends its digit to `trail` for an IPv4 packet with the marked protocol, so that a test reads
 * the order in which they ran; `verdict` is what `last` answers. The section name is one that libbpf cannot guess from. */
#include <linux/pkt_cls.h>
#include "counters.h"
#include "packet.h"

#define TCX_NEXT -1

const volatile __u8 protocol = IPPROTO_ICMP;
const volatile int verdict = TC_ACT_OK;
__u64 trail;

static __always_inline int step(struct __sk_buff *skb, __u64 digit, int answer) {
  struct frame frame;
  if (ipv4_frame(DATA(skb), DATA_END(skb), &frame) != 0 || frame.ip->protocol != protocol) return TCX_NEXT;
  trail = trail * 10 + digit;
  count(digit);
  return answer;
}

SEC("classifier/one")
int one(struct __sk_buff *skb) { return step(skb, 1, TCX_NEXT); }

SEC("classifier/two")
int two(struct __sk_buff *skb) { return step(skb, 2, TCX_NEXT); }

SEC("classifier/three")
int three(struct __sk_buff *skb) { return step(skb, 3, TCX_NEXT); }

SEC("classifier/four")
int four(struct __sk_buff *skb) { return step(skb, 4, TCX_NEXT); }

SEC("classifier/last")
int last(struct __sk_buff *skb) { return step(skb, 9, verdict); }

char _license[] SEC("license") = "GPL";
