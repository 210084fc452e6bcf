/* tracepoint and raw tracepoint: executions of the program whose name begins with `wanted`, seen at both. */
#include "counters.h"

const volatile char wanted[64];
char seen_file[64];
int seen_pid;

/* The record of sched/sched_process_exec, as its format file in tracefs says. */
struct exec_record {
  __u64 common;
  __u32 filename_place; /* offset in the low half, length in the high one */
  int pid;
  int old_pid;
};

static __always_inline int is_wanted(const char *file) {
  for (int at = 0; at < 64; at++) {
    if (wanted[at] == 0) return 1;
    if (file[at] != wanted[at]) return 0;
  }
  return 1;
}

SEC("tracepoint/sched/sched_process_exec")
int on_exec(struct exec_record *ctx) {
  char file[64] = {};
  long length = bpf_probe_read_kernel_str(file, sizeof(file), (void *)ctx + (ctx->filename_place & 0xffff));
  if (length < 0 || !is_wanted(file)) return 0;
  __builtin_memcpy(seen_file, file, sizeof(file));
  seen_pid = ctx->pid;
  count(0);
  return 0;
}

struct linux_binprm {
  const char *filename;
} __attribute__((preserve_access_index));

SEC("raw_tracepoint/sched_process_exec")
int on_exec_raw(struct bpf_raw_tracepoint_args *ctx) {
  char file[64] = {};
  const char *name;
  struct linux_binprm *program = (void *)ctx->args[2];
  bpf_probe_read_kernel(&name, sizeof(name), __builtin_preserve_access_index(&program->filename));
  long length = bpf_probe_read_kernel_str(file, sizeof(file), name);
  if (length < 0 || !is_wanted(file)) return 0;
  count(1);
  return 0;
}

char _license[] SEC("license") = "GPL";
