/* uprobe and uretprobe: the arguments and the result of a C function `add_up(int, int)`. */
#include <linux/ptrace.h>
#include "counters.h"
#include <bpf/bpf_tracing.h>

int left, right, result;

SEC("uprobe")
int on_call(struct pt_regs *ctx) {
  left = (int)PT_REGS_PARM1(ctx);
  right = (int)PT_REGS_PARM2(ctx);
  count(0);
  return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx) {
  result = (int)PT_REGS_RC(ctx);
  count(1);
  return 0;
}

char _license[] SEC("license") = "GPL";
