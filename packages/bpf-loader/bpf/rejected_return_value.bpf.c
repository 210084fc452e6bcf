/* Rejected: a verdict out of the range that the hook knows. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup/sock_create")
int unheard_of(struct bpf_sock *sk) { return 5; }

char _license[] SEC("license") = "GPL";
