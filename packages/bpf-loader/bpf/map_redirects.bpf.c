/* devmap, devmap_hash, cpumap, xskmap: where `bpf_redirect_map` sends a packet, and what happens when nothing is there. */
#include "counters.h"
#include "packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u32);
} devices SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, struct bpf_devmap_val);
} devices_by_key SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_CPUMAP);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, struct bpf_cpumap_val);
} cpus SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

static __always_inline int went(int action) {
  count(action == XDP_REDIRECT ? 0 : 1);
  return action;
}

SEC("xdp")
int to_device(struct xdp_md *ctx) { return went(bpf_redirect_map(&devices, 1, XDP_PASS)); }

SEC("xdp")
int to_device_by_key(struct xdp_md *ctx) { return went(bpf_redirect_map(&devices_by_key, 77, XDP_PASS)); }

SEC("xdp")
int to_cpu(struct xdp_md *ctx) { return went(bpf_redirect_map(&cpus, 0, XDP_PASS)); }

SEC("xdp")
int to_socket(struct xdp_md *ctx) { return went(bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)); }

char _license[] SEC("license") = "GPL";
