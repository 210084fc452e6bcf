/* sockopt: nobody sets IP_TOS to `refused_tos` (EPERM); who asks for IP_TTL reads `shown_ttl`. */
#include <linux/in.h>
#include "counters.h"

const volatile __u8 refused_tos;
const volatile __u8 shown_ttl;

SEC("cgroup/setsockopt")
int on_set(struct bpf_sockopt *ctx) {
  __u8 *value = ctx->optval;
  if (ctx->level != IPPROTO_IP || ctx->optname != IP_TOS) return 1;
  if ((void *)(value + 1) > ctx->optval_end) return 0;
  count(0);
  return *value == refused_tos ? 0 : 1;
}

SEC("cgroup/getsockopt")
int on_get(struct bpf_sockopt *ctx) {
  __u8 *value = ctx->optval;
  if (ctx->level != IPPROTO_IP || ctx->optname != IP_TTL) return 1;
  if ((void *)(value + 1) > ctx->optval_end) return 0;
  count(1);
  *value = shown_ttl;
  ctx->retval = 0;
  return 1;
}

char _license[] SEC("license") = "GPL";
