/* The process tree below this process. As subreaper it is the parent of every process of the command whose own parent has
 * ended, so walking children finds the double-forked ones too.
 *
 * Who is signalled, and why it is never a stranger with a recycled pid:
 *  - a direct child: this process alone reaps it and does not do so during a walk, so its pid cannot be given away;
 *  - anyone deeper: through a pidfd. It is opened first; then the parent recorded for that pid is compared, and that parent
 *    (held by a pidfd of its own) must be alive after the comparison. Had the pid been given away before the opening, the comparison
 *    fails; if it is given away afterwards, the pidfd still names the old, dead process and the signal goes nowhere. */
#include "exec.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DEPTH_LIMIT = 128, SEEN_LIMIT = 65536, HELD_LIMIT = 512 }; /* descriptors: well below the usual 1,024 */

struct pids {
  pid_t *list;
  size_t count, capacity;
};

static void add(struct pids *pids, pid_t pid) {
  if (pids->count == pids->capacity) {
    size_t capacity = pids->capacity > 0 ? pids->capacity * 2 : 64;
    pid_t *list = realloc(pids->list, capacity * sizeof *list);
    if (list == NULL) return; /* the next walk finds it */
    pids->list = list;
    pids->capacity = capacity;
  }
  pids->list[pids->count++] = pid;
}

/* State letter and parent of a process. False when it is gone. */
static bool look(pid_t pid, char *state, pid_t *parent) {
  char path[40], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  char *after = strrchr(text, ')'); /* the name before it may hold anything */
  return after != NULL && sscanf(after, ") %c %d", state, parent) == 2;
}

/* Kernels without CONFIG_PROC_CHILDREN: look at everyone. */
static void children_by_scan(pid_t of, struct pids *pids) {
  DIR *proc = opendir("/proc");
  if (proc == NULL) return;
  for (struct dirent *entry; (entry = readdir(proc)) != NULL;) {
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    pid_t pid = atoi(entry->d_name), parent = 0;
    char state = 0;
    if (look(pid, &state, &parent) && parent == of) add(pids, pid);
  }
  closedir(proc);
}

static void children_of_thread(FILE *file, struct pids *pids) {
  int pid = 0;
  while (fscanf(file, "%d", &pid) == 1) add(pids, pid);
}

static void children_of(pid_t of, struct pids *pids) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", of);
  DIR *tasks = opendir(path);
  if (tasks == NULL) return;
  for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", of, atoi(entry->d_name));
    FILE *file = fopen(path, "re");
    if (file != NULL) {
      children_of_thread(file, pids);
      fclose(file);
    } else if (errno == ENOENT && access("/proc/thread-self/children", F_OK) != 0) {
      children_by_scan(of, pids);
      break;
    }
  }
  closedir(tasks);
}

static int pidfd_open_(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
static bool pidfd_signal(int fd, int signal) { return fd >= 0 && syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) == 0; }

struct walk {
  pid_t self;
  int signal;      /* sent at once; 0 none */
  int *held;       /* with this, verified pidfds are kept here instead, parents before children */
  size_t held_count;
  size_t live, seen;
};

static void visit(struct walk *walk, pid_t parent, int parent_fd, int depth) {
  struct pids pids = {0};
  children_of(parent, &pids);
  for (size_t i = 0; i < pids.count && walk->seen < SEEN_LIMIT; i++, walk->seen++) {
    pid_t pid = pids.list[i], found_parent = 0;
    char state = 0;
    int fd = pidfd_open_(pid);
    bool found = look(pid, &state, &found_parent);
    bool direct = found && (parent == walk->self || found_parent == walk->self);
    bool verified = direct || (found && fd >= 0 && found_parent == parent && pidfd_signal(parent_fd, 0));
    bool hold = verified && walk->held != NULL && fd >= 0 && walk->held_count < HELD_LIMIT;
    if (hold) walk->held[walk->held_count++] = fd;
    else if (direct && walk->signal != 0) kill(pid, walk->signal);
    else if (verified && walk->signal != 0) pidfd_signal(fd, walk->signal);
    if (verified && state != 'Z' && state != 'X') {
      walk->live++;
      if (depth < DEPTH_LIMIT) visit(walk, pid, fd, depth + 1);
    }
    if (fd >= 0 && !hold) close(fd);
  }
  free(pids.list);
}

static size_t walk_all(struct walk *walk) {
  walk->self = getpid();
  visit(walk, walk->self, -1, 0);
  return walk->live;
}

size_t tree_kill(void) { return walk_all(&(struct walk){.signal = SIGKILL}); }

size_t tree_count(void) { return walk_all(&(struct walk){.signal = 0}); }

/* First finds all, then signals: a parent that died during the walk would hand children on unseen. Parents come first, or a shell would
 * go on to its next command when its child ends. SIGCONT, as a stopped process would not notice. */
size_t tree_terminate(void) {
  int held[HELD_LIMIT];
  struct walk walk = {.signal = SIGTERM, .held = held};
  size_t live = walk_all(&walk);
  for (size_t i = 0; i < walk.held_count; i++) pidfd_signal(held[i], SIGTERM);
  for (size_t i = 0; i < walk.held_count; i++) {
    pidfd_signal(held[i], SIGCONT);
    close(held[i]);
  }
  return live;
}
