/* prog_array, filled by its declaration: the entry calls a program by the packet's protocol; a chain that calls itself ends at the
 * kernel's limit of 33 tail calls. */
#include "counters.h"
#include "packet.h"

int on_icmp(struct xdp_md *ctx);
int on_udp(struct xdp_md *ctx);
int again(struct xdp_md *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 256);
  __type(key, __u32);
  __array(values, int(void *));
} by_protocol SEC(".maps") = {
    .values =
        {
            [IPPROTO_ICMP] = (void *)&on_icmp,
            [IPPROTO_UDP] = (void *)&on_udp,
            [255] = (void *)&again,
        },
};

SEC("xdp")
int on_icmp(struct xdp_md *ctx) {
  count(1);
  return XDP_PASS;
}

SEC("xdp")
int on_udp(struct xdp_md *ctx) {
  count(2);
  return XDP_DROP;
}

SEC("xdp")
int again(struct xdp_md *ctx) {
  count(3);
  bpf_tail_call(ctx, &by_protocol, 255);
  return XDP_PASS;
}

SEC("xdp")
int entry(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  count(0);
  bpf_tail_call(ctx, &by_protocol, frame.ip->protocol);
  bpf_tail_call(ctx, &by_protocol, 255);
  return XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
