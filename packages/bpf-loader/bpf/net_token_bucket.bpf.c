/* A token bucket for each source in an lru_hash under a spin lock: `burst` packets pass, the rest is dropped (no refill here, so
 * that a test knows the count). */
#include "counters.h"
#include "packet.h"

struct bucket {
  struct bpf_spin_lock lock;
  __u32 used;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __be32);
  __type(value, struct bucket);
} buckets SEC(".maps");

const volatile __u32 burst = 1;

SEC("tc")
int limit(struct __sk_buff *skb) {
  struct frame frame;
  if (ipv4_frame(DATA(skb), DATA_END(skb), &frame) != 0 || frame.ip->protocol != IPPROTO_ICMP) return 0;
  __be32 source = frame.ip->saddr;
  struct bucket fresh = {};
  bpf_map_update_elem(&buckets, &source, &fresh, BPF_NOEXIST);
  struct bucket *bucket = bpf_map_lookup_elem(&buckets, &source);
  if (!bucket) return 0;
  bpf_spin_lock(&bucket->lock);
  int pass = bucket->used < burst;
  if (pass) bucket->used++;
  bpf_spin_unlock(&bucket->lock);
  count(pass ? 0 : 1);
  return pass ? 0 : 2; /* TC_ACT_OK, TC_ACT_SHOT */
}

char _license[] SEC("license") = "GPL";
