/* What the verifier refuses, beside a program that it takes: a version of this never comes to run. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 version = 0;

SEC("xdp")
int xdp_filter(struct xdp_md *ctx) {
  return *(int *)(long)ctx->data;
}

char _license[] SEC("license") = "GPL";
