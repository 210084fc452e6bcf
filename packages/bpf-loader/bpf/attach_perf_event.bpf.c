/* perf_event: samples, and the last sample's period. */
#include <linux/bpf_perf_event.h>
#include "counters.h"

__u64 period;

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx) {
  period = ctx->sample_period;
  count(0);
  return 0;
}

char _license[] SEC("license") = "GPL";
