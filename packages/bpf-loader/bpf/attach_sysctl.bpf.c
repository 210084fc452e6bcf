/* sysctl: the cgroup may read (0), not write (1); what was read last is kept by name. */
#include "counters.h"

char last_name[64];

SEC("cgroup/sysctl")
int read_only(struct bpf_sysctl *ctx) {
  bpf_sysctl_get_name(ctx, last_name, sizeof(last_name), 0);
  count(ctx->write ? 1 : 0);
  return ctx->write ? 0 : 1;
}

char _license[] SEC("license") = "GPL";
