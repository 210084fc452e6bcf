/* Rejected: a loop without an end. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int spin(struct xdp_md *ctx) {
  volatile int going = 1;
  while (going) asm volatile("" ::: "memory");
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
