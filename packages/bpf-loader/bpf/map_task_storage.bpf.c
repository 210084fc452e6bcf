/* task_storage: how often each task was switched in, by a BTF-typed tracepoint; for one process only. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
  int pid;
  int tgid;
} __attribute__((preserve_access_index));

struct {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} switches SEC(".maps");

const volatile int watched_tgid;
__u64 highest;

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx) {
  struct task_struct *next = (void *)ctx[2];
  if (next->tgid != watched_tgid) return 0;
  __u64 *value = bpf_task_storage_get(&switches, next, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!value) return 0;
  *value += 1;
  if (*value > highest) highest = *value;
  return 0;
}

char _license[] SEC("license") = "GPL";
