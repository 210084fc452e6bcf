/* Rejected: a ring buffer record that is reserved and neither submitted nor discarded. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

SEC("xdp")
int forgetful(struct xdp_md *ctx) {
  __u64 *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
  if (record) *record = 1;
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
