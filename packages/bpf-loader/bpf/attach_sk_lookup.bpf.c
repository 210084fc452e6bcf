/* sk_lookup: connections to `front_port` go to the socket in `target`, those to `shut_port` nowhere. The socket gets into the map
 * by sock_ops in the listener's cgroup. */
#include "counters.h"
#include <bpf/bpf_endian.h>

const volatile __u16 front_port;
const volatile __u16 shut_port;

struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} target SEC(".maps");

SEC("sockops")
int keep_listener(struct bpf_sock_ops *ctx) {
  __u32 zero = 0;
  if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB && bpf_sock_map_update(ctx, &target, &zero, BPF_ANY) == 0) count(0);
  return 1;
}

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx) {
  __u32 zero = 0;
  if (ctx->local_port == shut_port) {
    count(2);
    return SK_DROP;
  }
  if (ctx->local_port != front_port) return SK_PASS;
  struct bpf_sock *sk = bpf_map_lookup_elem(&target, &zero);
  if (!sk) return SK_PASS;
  long failed = bpf_sk_assign(ctx, sk, 0);
  bpf_sk_release(sk);
  if (!failed) count(1);
  return SK_PASS;
}

char _license[] SEC("license") = "GPL";
