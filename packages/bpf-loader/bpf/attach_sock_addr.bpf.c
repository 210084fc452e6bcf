/* sock_addr: the twelve hooks. Those of bind put a socket on `bind_port`; those of connect and sendmsg turn the port `front_port`
 * into `back_port`; those of recvmsg, getpeername and getsockname turn `back_port` into `front_port` for the one who asks.
 * Each counts in its own slot, in the order of the functions below. */
#include "counters.h"
#include <bpf/bpf_endian.h>

const volatile __u16 bind_port;
const volatile __u16 front_port;
const volatile __u16 back_port;

static __always_inline int turn(struct bpf_sock_addr *ctx, __u32 slot, __u16 from, __u16 to) {
  if (ctx->user_port != bpf_htons(from)) return 1;
  ctx->user_port = bpf_htons(to);
  count(slot);
  return 1;
}

SEC("cgroup/bind4")
int on_bind4(struct bpf_sock_addr *ctx) { return turn(ctx, 0, front_port, bind_port); }
SEC("cgroup/bind6")
int on_bind6(struct bpf_sock_addr *ctx) { return turn(ctx, 1, front_port, bind_port); }
SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx) { return turn(ctx, 2, front_port, back_port); }
SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx) { return turn(ctx, 3, front_port, back_port); }
SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx) { return turn(ctx, 4, front_port, back_port); }
SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx) { return turn(ctx, 5, front_port, back_port); }
SEC("cgroup/recvmsg4")
int on_recvmsg4(struct bpf_sock_addr *ctx) { return turn(ctx, 6, back_port, front_port); }
SEC("cgroup/recvmsg6")
int on_recvmsg6(struct bpf_sock_addr *ctx) { return turn(ctx, 7, back_port, front_port); }
SEC("cgroup/getpeername4")
int on_getpeername4(struct bpf_sock_addr *ctx) { return turn(ctx, 8, back_port, front_port); }
SEC("cgroup/getpeername6")
int on_getpeername6(struct bpf_sock_addr *ctx) { return turn(ctx, 9, back_port, front_port); }
SEC("cgroup/getsockname4")
int on_getsockname4(struct bpf_sock_addr *ctx) { return turn(ctx, 10, bind_port, front_port); }
SEC("cgroup/getsockname6")
int on_getsockname6(struct bpf_sock_addr *ctx) { return turn(ctx, 11, bind_port, front_port); }

char _license[] SEC("license") = "GPL";
