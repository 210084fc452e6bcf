/* cgrp_storage (since Linux 6.2): executions of each cgroup, seen from a BTF-typed tracepoint. The type is not in the headers of
 * every distribution yet. */
#include "counters.h"

#define MAP_TYPE_CGRP_STORAGE 32

struct {
  __uint(type, MAP_TYPE_CGRP_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} executions SEC(".maps");

struct kernfs_node {
  __u64 id;
} __attribute__((preserve_access_index));
struct cgroup {
  struct kernfs_node *kn;
} __attribute__((preserve_access_index));
struct css_set {
  struct cgroup *dfl_cgrp;
} __attribute__((preserve_access_index));
struct task_struct {
  struct css_set *cgroups;
} __attribute__((preserve_access_index));

const volatile __u64 watched_cgroup;

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx) {
  struct task_struct *task = (void *)bpf_get_current_task_btf();
  bpf_rcu_read_lock();
  struct cgroup *group = task->cgroups->dfl_cgrp;
  if (group->kn->id == watched_cgroup) {
    __u64 *value = bpf_cgrp_storage_get(&executions, group, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (value) count_more(0, __sync_fetch_and_add(value, 1) + 1);
    else count(1);
  }
  bpf_rcu_read_unlock();
  return 0;
}

char _license[] SEC("license") = "GPL";
