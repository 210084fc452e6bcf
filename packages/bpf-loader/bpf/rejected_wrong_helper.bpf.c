/* Rejected: a helper that this program type does not have. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup_skb/egress")
int stranger(struct __sk_buff *skb) {
  return bpf_redirect(1, 0) ? 1 : 0;
}

char _license[] SEC("license") = "GPL";
