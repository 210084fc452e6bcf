/* A cgroup of the command's own, below one that the daemon may write to. Only the command is put there: the supervisor
 * stays outside, so that cgroup.kill never takes the one who has to report. */
#include "exec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

void cgroup_create(struct cgroup *cgroup, const char *parent, const char *id) {
  *cgroup = (struct cgroup){.parent = -1, .dir = -1};
  if (parent == NULL) return;
  snprintf(cgroup->name, sizeof cgroup->name, "exec-%s", id);
  cgroup->parent = open(parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct statfs fs;
  if (cgroup->parent >= 0 && fstatfs(cgroup->parent, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC &&
      (mkdirat(cgroup->parent, cgroup->name, 0755) == 0 || errno == EEXIST))
    cgroup->dir = openat(cgroup->parent, cgroup->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (cgroup->dir < 0 && cgroup->parent >= 0) close(cgroup->parent), cgroup->parent = -1;
}

static bool put(int dir, const char *file, const char *text) {
  int fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  bool ok = write(fd, text, strlen(text)) > 0;
  close(fd);
  return ok;
}

/* Moving a process waits for all forks of the machine and an RCU grace period (15 ms and more); being born there does not. Only one thread
 * lives here and the child soon executes, so the bare system call is enough of a fork. */
pid_t cgroup_fork(const struct cgroup *cgroup, bool *inside) {
#ifdef CLONE_INTO_CGROUP
  if (cgroup->dir >= 0) {
    struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)cgroup->dir};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    *inside = pid >= 0;
    if (pid >= 0) return (pid_t)pid;
  }
#endif
  *inside = false; /* Linux before 5.7, or a filter that does not know the call */
  return fork();
}

void cgroup_join(const struct cgroup *cgroup) {
  if (cgroup->dir >= 0) put(cgroup->dir, "cgroup.procs", "0");
}

bool cgroup_populated(const struct cgroup *cgroup) {
  char text[256];
  if (cgroup->dir < 0) return false;
  int fd = openat(cgroup->dir, "cgroup.events", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n < 0 ? 0 : n] = '\0';
  return strstr(text, "populated 1") != NULL;
}

void cgroup_kill(const struct cgroup *cgroup) {
  if (cgroup->dir >= 0) put(cgroup->dir, "cgroup.kill", "1"); /* before Linux 5.14 there is none: tree.c does it alone */
}

/* The command may have made cgroups below its own. Takes `dir`. */
static void remove_below(int dir, int depth) {
  DIR *list = fdopendir(dir);
  if (list == NULL) {
    close(dir);
    return;
  }
  for (struct dirent *entry; (entry = readdir(list)) != NULL;) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    int below = depth > 0 ? openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (below >= 0) remove_below(below, depth - 1);
    unlinkat(dir, entry->d_name, AT_REMOVEDIR);
  }
  closedir(list);
}

void cgroup_remove(struct cgroup *cgroup) {
  if (cgroup->dir < 0) return;
  if (unlinkat(cgroup->parent, cgroup->name, AT_REMOVEDIR) != 0 && errno == EBUSY && !cgroup_populated(cgroup)) {
    remove_below(cgroup->dir, 16);
    cgroup->dir = -1;
    unlinkat(cgroup->parent, cgroup->name, AT_REMOVEDIR);
  }
  if (cgroup->dir >= 0) close(cgroup->dir);
  close(cgroup->parent);
  cgroup->dir = cgroup->parent = -1;
}
