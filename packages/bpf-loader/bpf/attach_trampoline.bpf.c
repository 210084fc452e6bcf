/* fentry, fexit and lsm: what needs a BPF trampoline. */
#include "counters.h"

SEC("fentry/do_unlinkat")
int on_entry(void *ctx) {
  count(0);
  return 0;
}

SEC("fexit/do_unlinkat")
int on_exit(void *ctx) {
  count(1);
  return 0;
}

SEC("lsm/file_open")
int on_open(void *ctx) {
  count(2);
  return 0;
}

char _license[] SEC("license") = "GPL";
