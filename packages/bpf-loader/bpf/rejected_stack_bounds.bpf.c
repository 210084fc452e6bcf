/* Rejected: writes beyond its stack. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int overflow(struct xdp_md *ctx) {
  char buffer[64];
  __u32 at = ctx->rx_queue_index;
  asm volatile("" : : "r"(buffer) : "memory");
  buffer[at & 127] = 1;
  return buffer[at & 63];
}

char _license[] SEC("license") = "GPL";
