/** The C programs of `aegis artifacts init`: small, documented, and such that Debian's clang 14 builds them and kernel 5.15 loads them. */

const INCLUDES = `#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
`;

const LICENCE = `
/* Some of the kernel's functions are open to programs under the GPL only. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
`;

const COUNTER = `/* One counter for all processors, read by 'aegis artifacts maps'. The types stand in the object's BTF, so it is shown with its names. */
struct counts {
	__u64 packets;
	__u64 bytes;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} dropped SEC(".maps");

static __always_inline void count(__u64 bytes)
{
	__u32 first = 0;
	struct counts *counts = bpf_map_lookup_elem(&dropped, &first);

	if (counts) {
		__sync_fetch_and_add(&counts->packets, 1);
		__sync_fetch_and_add(&counts->bytes, bytes);
	}
}
`;

const TARGET = (what: string) => `/* ${what} In network order; the manifest gives it ("type": "ipv4"), and
 * 'aegis assign --set target_ip=…' another one for its nodes. The verifier sees it as a constant. */
const volatile __u32 target_ip = 0;
`;

const PARSE_FRAME = `	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);

	/* The verifier wants every read proven to lie inside the packet. */
	if ((void *)(ip + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP))`;

export const TC = `/* Drops the ICMP that leaves through an interface for one IPv4 address, and counts it. */
${INCLUDES}#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

${TARGET('ICMP to this address is dropped.')}
${COUNTER}
SEC("tc")
int drop_icmp(struct __sk_buff *ctx)
{
${PARSE_FRAME}
		return TC_ACT_UNSPEC; /* the next program decides */
	if (ip->protocol != IPPROTO_ICMP || ip->daddr != target_ip)
		return TC_ACT_UNSPEC;
	count(ctx->len);
	return TC_ACT_SHOT;
}
${LICENCE}`;

export const XDP = `/* Drops the ICMP that comes in from one IPv4 address, before the kernel makes anything of it, and counts it. */
${INCLUDES}#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

${TARGET('ICMP from this address is dropped.')}
${COUNTER}
SEC("xdp")
int drop_icmp(struct xdp_md *ctx)
{
${PARSE_FRAME}
		return XDP_PASS;
	if (ip->protocol != IPPROTO_ICMP || ip->saddr != target_ip)
		return XDP_PASS;
	count(data_end - data);
	return XDP_DROP;
}
${LICENCE}`;

export const CGROUP_SKB = `/* Drops the ICMP that the processes of a cgroup send to one IPv4 address, whatever the interface, and counts it. */
${INCLUDES}#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

${TARGET('ICMP to this address is dropped.')}
${COUNTER}
SEC("cgroup_skb/egress")
int drop_icmp(struct __sk_buff *ctx)
{
	struct iphdr ip;

	/* Here a packet begins with its IP header. */
	if (ctx->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(ctx, 0, &ip, sizeof(ip)) < 0)
		return 1; /* let it through */
	if (ip.protocol != IPPROTO_ICMP || ip.daddr != target_ip)
		return 1;
	count(ctx->len);
	return 0;
}
${LICENCE}`;

export const TRACEPOINT = `/* Tells of every program that is started: one event each in a ring buffer, and a count for each user. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Only this user's programs are told; 4294967295 means everyone's. 'aegis assign --set only_uid=…' changes it. */
const volatile __u32 only_uid = 0xffffffff;

/* What 'aegis artifacts events' prints, a line of JSON each: the map's tag says that its records are of this type. */
struct event {
	__u64 at_ns; /* since boot */
	__u32 pid;
	__u32 uid;
	char comm[16];
};
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps") __attribute__((btf_decl_tag("record:struct event")));
/* Clang leaves out of BTF what nothing mentions by name. */
const struct event *events_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} started_by_uid SEC(".maps");

SEC("tracepoint/sched/sched_process_exec")
int on_exec(void *ctx)
{
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	__u64 one = 1, *count;
	struct event *event;

	(void)ctx;
	if (only_uid != 0xffffffff && only_uid != uid)
		return 0;
	count = bpf_map_lookup_elem(&started_by_uid, &uid);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&started_by_uid, &uid, &one, BPF_ANY);

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0; /* full: nobody reads, or too slowly */
	event->at_ns = bpf_ktime_get_ns();
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = uid;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}
${LICENCE}`;
