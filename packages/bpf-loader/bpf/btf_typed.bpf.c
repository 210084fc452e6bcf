/* A BTF-typed tracepoint, CO-RE field accesses (one of a field that does not exist everywhere), and a kfunc. */
#include "counters.h"
#include <bpf/bpf_core_read.h>

struct mm_struct {
  unsigned long start_stack;
  unsigned long total_vm;
} __attribute__((preserve_access_index));

struct task_struct {
  int pid;
  int tgid;
  char comm[16];
  struct task_struct *real_parent;
  struct mm_struct *mm;
  int no_kernel_has_this_field;
} __attribute__((preserve_access_index));

struct execution {
  int pid;
  int parent;
  char comm[16];
  __u64 pages;
  _Bool odd_field;
  __u32 task_size;
};

const volatile char wanted[16];
struct execution last;

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx) {
  struct task_struct *task = (void *)ctx[0];
  char comm[16];
  bpf_core_read_str(comm, sizeof(comm), &task->comm);
  for (int at = 0; at < 16; at++) {
    if (comm[at] != wanted[at]) return 0;
    if (!comm[at]) break;
  }
  last.pid = task->tgid;
  last.parent = BPF_CORE_READ(task, real_parent, tgid);
  last.pages = BPF_CORE_READ(task, mm, total_vm);
  last.odd_field = bpf_core_field_exists(task->no_kernel_has_this_field);
  last.task_size = bpf_core_type_size(struct task_struct);
  __builtin_memcpy(last.comm, comm, sizeof(comm));
  count(0);
  return 0;
}

char _license[] SEC("license") = "GPL";
