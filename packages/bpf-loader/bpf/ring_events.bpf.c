/* ringbuf: one record for each IPv4 packet, its type named by a declaration tag; and raw records without a type. */
#include "packet.h"

enum direction { INWARDS = 1, OUTWARDS = 2 };

struct packet_event {
  __u64 number;
  struct in_addr source;
  __be32 target;
  __be16 port;
  __u8 protocol;
  _Bool fragment;
  enum direction direction;
  __u8 mac[6];
  char label[8];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 64 * 1024);
} events SEC(".maps") __attribute__((btf_decl_tag("record:struct packet_event")));

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} raw SEC(".maps");

/* Keeps the type in the BTF. */
const struct packet_event *unused_packet_event __attribute__((unused));

__u64 packets;
__u64 lost;

SEC("xdp")
int report(struct xdp_md *ctx) {
  struct frame frame;
  if (ipv4_frame(DATA(ctx), DATA_END(ctx), &frame) != 0) return XDP_PASS;
  __u64 number = __sync_fetch_and_add(&packets, 1);
  struct packet_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (!event) {
    __sync_fetch_and_add(&lost, 1);
    return XDP_PASS;
  }
  __builtin_memset(event, 0, sizeof(*event));
  event->number = number;
  event->source.s_addr = frame.ip->saddr;
  event->target = frame.ip->daddr;
  event->protocol = frame.ip->protocol;
  event->fragment = (frame.ip->frag_off & bpf_htons(0x3fff)) != 0;
  event->direction = INWARDS;
  __builtin_memcpy(event->mac, frame.eth->h_source, 6);
  __builtin_memcpy(event->label, "veth", 5);
  struct udphdr *udp = (void *)(frame.ip + 1);
  if (frame.ip->protocol == IPPROTO_UDP && (void *)(udp + 1) <= frame.end) event->port = udp->dest;
  bpf_ringbuf_submit(event, 0);
  __u32 mark = (__u32)number;
  bpf_ringbuf_output(&raw, &mark, sizeof(mark), 0);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
