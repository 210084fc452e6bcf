/* stack_trace: where in a user's program a probed function was called from. */
#include "counters.h"

#define DEPTH 16

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 64);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, DEPTH * sizeof(__u64));
} stacks SEC(".maps");

int last_id = -1;

SEC("uprobe")
int from_where(void *ctx) {
  last_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  count(last_id < 0 ? 1 : 0);
  return 0;
}

char _license[] SEC("license") = "GPL";
