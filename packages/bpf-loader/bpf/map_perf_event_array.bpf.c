/* perf_event_array: a record for each packet to whoever reads the cpu's ring. */
#include "counters.h"
#include "packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(__u32));
} samples SEC(".maps");

struct sample {
  __u32 magic;
  __u32 length;
};

SEC("xdp")
int emit(struct xdp_md *ctx) {
  struct sample sample = {.magic = 0xae915000, .length = DATA_END(ctx) - DATA(ctx)};
  long failed = bpf_perf_event_output(ctx, &samples, BPF_F_CURRENT_CPU, &sample, sizeof(sample));
  count(failed ? 1 : 0);
  return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
