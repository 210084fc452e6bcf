/* device: the cgroup may not open /dev/zero (1:5). */
#include "counters.h"

SEC("cgroup/dev")
int no_zero(struct bpf_cgroup_dev_ctx *ctx) {
  int zero = (ctx->access_type & 0xffff) == BPF_DEVCG_DEV_CHAR && ctx->major == 1 && ctx->minor == 5;
  count(zero ? 1 : 0);
  return zero ? 0 : 1;
}

char _license[] SEC("license") = "GPL";
