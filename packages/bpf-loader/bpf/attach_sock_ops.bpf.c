/* sock_ops: counts connections made (0), accepted (1) and listening sockets (2), and keeps each by its remote port in a sockhash,
 * a listening one under 0; the round-trip time is asked for, so that the callback flags are in use too (3). */
#include "counters.h"
#include <bpf/bpf_endian.h>

struct {
  __uint(type, BPF_MAP_TYPE_SOCKHASH);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} sockets SEC(".maps");

SEC("sockops")
int watch(struct bpf_sock_ops *ctx) {
  __u32 port = bpf_ntohl(ctx->remote_port);
  __u32 listening = 0;
  switch (ctx->op) {
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
      count(0);
      bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
      break;
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
      count(1);
      bpf_sock_hash_update(ctx, &sockets, &port, BPF_ANY);
      break;
    case BPF_SOCK_OPS_TCP_LISTEN_CB:
      count(2);
      bpf_sock_hash_update(ctx, &sockets, &listening, BPF_ANY);
      break;
    case BPF_SOCK_OPS_STATE_CB:
      count(3);
      break;
  }
  return 1;
}

char _license[] SEC("license") = "GPL";
