/* Rejected: a field of the context that this program type may not read. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("socket")
int curious(struct __sk_buff *skb) { return skb->tc_classid; }

char _license[] SEC("license") = "GPL";
