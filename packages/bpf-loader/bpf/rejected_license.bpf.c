/* Rejected: a helper that is only for programs under the GPL. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int proprietary(struct xdp_md *ctx) {
  bpf_printk("hello");
  return XDP_PASS;
}

char _license[] SEC("license") = "Proprietary";
