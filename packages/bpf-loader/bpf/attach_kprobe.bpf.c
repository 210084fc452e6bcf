/* kprobe and kretprobe on a function that every kernel has. */
#include "counters.h"

SEC("kprobe/do_unlinkat")
int on_entry(void *ctx) {
  count(0);
  return 0;
}

SEC("kretprobe/do_unlinkat")
int on_return(void *ctx) {
  count(1);
  return 0;
}

char _license[] SEC("license") = "GPL";
