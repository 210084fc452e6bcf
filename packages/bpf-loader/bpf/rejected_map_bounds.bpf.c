/* Rejected: an index into a map's value that nothing bounds. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, char[64]);
} text SEC(".maps");

SEC("xdp")
int beyond(struct xdp_md *ctx) {
  __u32 zero = 0;
  char *value = bpf_map_lookup_elem(&text, &zero);
  if (!value) return XDP_PASS;
  return value[ctx->rx_queue_index] ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
