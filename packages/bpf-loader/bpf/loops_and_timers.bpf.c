/* bpf_loop, bpf_for_each_map_elem, bpf_timer, a global function and dynptr: newer helpers than most objects use. */
#include "counters.h"
#include "packet.h"

struct cell {
  struct bpf_timer timer;
  __u64 ticks;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct cell);
} timers SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
} squares SEC(".maps");

__u64 looped, summed;

static int on_tick(void *map, __u32 *key, struct cell *cell) {
  cell->ticks++;
  return 0;
}

static long on_loop(__u32 at, void *context) {
  __u64 square = (__u64)at * at;
  __u32 key = at;
  bpf_map_update_elem(&squares, &key, &square, BPF_ANY);
  looped++;
  return 0;
}

static long on_element(void *map, __u32 *key, __u64 *value, void *context) {
  summed += *value;
  return 0;
}

__attribute__((noinline)) int limited(int value) { return value > 5 ? 5 : value; }

SEC("xdp")
int work(struct xdp_md *ctx) {
  __u32 zero = 0;
  looped = summed = 0;
  bpf_loop(limited(DATA_END(ctx) - DATA(ctx)), on_loop, 0, 0);
  bpf_for_each_map_elem(&squares, on_element, 0, 0);
  struct cell *cell = bpf_map_lookup_elem(&timers, &zero);
  if (!cell) return XDP_ABORTED;
  bpf_timer_init(&cell->timer, &timers, 1 /* CLOCK_MONOTONIC */);
  bpf_timer_set_callback(&cell->timer, on_tick);
  bpf_timer_start(&cell->timer, 1000, 0);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
