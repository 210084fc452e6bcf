/* What the programs tell their tests: how often they came by each numbered place. */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

static __always_inline void count_more(__u32 slot, __u64 by) {
  __u64 *value = bpf_map_lookup_elem(&counters, &slot);
  if (value) __sync_fetch_and_add(value, by);
}

static __always_inline void count(__u32 slot) { count_more(slot, 1); }
