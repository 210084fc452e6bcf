/* cgroup_sock: refuses datagram sockets (0), counts releases (1), refuses the port `closed_port` on both families (2, 3). */
#include "counters.h"
#include <bpf/bpf_endian.h>

#define SOCK_DGRAM 2

const volatile __u16 closed_port;

SEC("cgroup/sock_create")
int no_datagrams(struct bpf_sock *sk) {
  if (sk->type != SOCK_DGRAM) return 1;
  count(0);
  return 0;
}

SEC("cgroup/sock_release")
int released(struct bpf_sock *sk) {
  count(1);
  return 1;
}

SEC("cgroup/post_bind4")
int no_port4(struct bpf_sock *sk) {
  count(2);
  return sk->src_port == closed_port ? 0 : 1;
}

SEC("cgroup/post_bind6")
int no_port6(struct bpf_sock *sk) {
  count(3);
  return sk->src_port == closed_port ? 0 : 1;
}

char _license[] SEC("license") = "GPL";
