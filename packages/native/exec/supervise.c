/* One execution from its lock to its status: begin, loop, end. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HINT_EVERY_MS = 5, KILL_AGAIN_MS = 5, UNKILLABLE_MS = 10000, SETTLE_MS = 20, KILL_ROUNDS = 64, SPIN_MS = 200 };

/* RUNNING → (TERMINATING → KILLING →) DRAINING. A cancel during DRAINING goes back to TERMINATING for the left-overs. */
enum phase { RUNNING, TERMINATING, KILLING, DRAINING };

struct execution {
  int dir, lock, control, status, input, signals, timer, report;
  const char *id;
  struct spec spec;
  struct cgroup cgroup;
  struct stream streams[2];
  struct outcome outcome;
  pid_t command; /* 0 once reaped: only an unreaped child is ever named by its pid */
  enum phase phase;
  bool abandoned, hint_due;
  int64_t started, timeout_at, kill_at, progress_at, drain_at, settle_at, hint_at, armed_at;
};

static const int64_t NEVER = INT64_MAX;

/* ---- begin: everything that can fail comes before the claim, so that a failure leaves the execution free ---- */

static bool open_lock(struct execution *x) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  x->lock = openat(x->dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
  return x->lock >= 0 && fcntl(x->lock, F_OFD_SETLK, &lock) == 0;
}

static bool open_control(struct execution *x, char *error) {
  struct stat st;
  const int flags = O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
  x->control = openat(x->dir, "control", flags); /* there already when the folder served before */
  if (x->control < 0 && errno == ENOENT) {
    if (mkfifoat(x->dir, "control", 0600) != 0) return reason(error, "cannot make the control FIFO: %s", strerror(errno)), false;
    x->control = openat(x->dir, "control", flags);
  }
  if (x->control < 0 || fstat(x->control, &st) != 0) return reason(error, "cannot open control: %s", strerror(errno)), false;
  if (!S_ISFIFO(st.st_mode)) return reason(error, "control is not a FIFO"), false;
  return true;
}

static bool open_input(struct execution *x, char *error) {
  struct stat st;
  x->input = x->spec.has_stdin ? openat(x->dir, "stdin", O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK) : open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (x->input < 0 || fstat(x->input, &st) != 0) return reason(error, "cannot open stdin: %s", strerror(errno)), false;
  if (!x->spec.has_stdin) return true;
  if (!S_ISREG(st.st_mode)) return reason(error, "stdin is not a file"), false;
  /* The folder is 0700, so only the command, through its descriptor, profits: it may open /dev/stdin as another user. */
  fchmod(x->input, 0444);
  return fcntl(x->input, F_SETFL, 0) == 0;
}

static bool open_events(struct execution *x, char *error) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  x->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  x->timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
  if (x->signals < 0 || x->timer < 0) return reason(error, "cannot make signalfd or timerfd: %s", strerror(errno)), false;
  return prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 || (reason(error, "cannot become subreaper: %s", strerror(errno)), false);
}

static bool open_stream(struct execution *x, int index, int *write_end, char *error) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return reason(error, "cannot make a pipe: %s", strerror(errno)), false;
  fcntl(ends[0], F_SETFL, O_NONBLOCK); /* this end only: the command's writes block */
  *write_end = ends[1];
  return stream_open(&x->streams[index], index == 0 ? "stdout" : "stderr", x->dir, ends[0], &x->spec) || (reason(error, "out of memory"), false);
}

static void start_command(struct execution *x, struct command_files *files) {
  int report[2] = {-1, -1};
  struct spawn_failure *failure = &x->outcome.failure;
  bool inside = false;
  pid_t pid = pipe2(report, O_CLOEXEC | O_NONBLOCK) == 0 ? cgroup_fork(&x->cgroup, &inside) : -1;
  if (pid == 0) {
    if (!inside) cgroup_join(&x->cgroup);
    files->in = x->input, files->report = report[1];
    command_become(&x->spec, files);
  }
  if (pid < 0) {
    failure->exit_code = 126;
    reason(failure->text, "cannot fork: %s", strerror(errno));
  } else {
    x->command = pid;
  }
  if (report[1] >= 0) close(report[1]);
  x->report = report[0];
}

/* EXIT_STATUS_WRITTEN means here: begun. */
static int begin(struct execution *x, char *error) {
  struct command_files files = {.in = -1, .out = -1, .err = -1, .report = -1};
  if (!open_lock(x)) {
    if (x->lock >= 0 && (errno == EAGAIN || errno == EACCES)) return EXIT_BUSY;
    return reason(error, "cannot lock the folder: %s", strerror(errno)), EXIT_FAILED;
  }
  if (faccessat(x->dir, "claim", F_OK, AT_SYMLINK_NOFOLLOW) == 0) return EXIT_BUSY;
  bool ready = spec_read(&x->spec, x->dir, error) && open_control(x, error) && open_input(x, error) && open_events(x, error) &&
               open_stream(x, 0, &files.out, error) && open_stream(x, 1, &files.err, error) &&
               (x->status = status_preallocate(x->dir, error)) >= 0;
  int claimed = -1;
  x->outcome.started_at_ms = real_ms();
  if (ready) claimed = claim_make(x->dir, x->spec.boot_id, x->outcome.started_at_ms, error);
  if (claimed == 1) {
    cgroup_create(&x->cgroup, x->spec.cgroup, x->id);
    x->started = boot_ms();
    start_command(x, &files);
  }
  if (files.out >= 0) close(files.out);
  if (files.err >= 0) close(files.err);
  if (claimed == 1) return EXIT_STATUS_WRITTEN;
  if (x->status >= 0) unlinkat(x->dir, "status.tmp", 0);
  return claimed == 0 ? EXIT_BUSY : EXIT_FAILED;
}

/* ---- the tree ---- */

static void read_report(struct execution *x) {
  struct spawn_failure failure;
  if (x->report < 0) return;
  ssize_t n = read(x->report, &failure, sizeof failure);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n == (ssize_t)sizeof failure) x->outcome.failure = failure;
  close(x->report); /* the end comes with the exec */
  x->report = -1;
}

/* Reaps what has ended. While killing, takes each dead child's process group along first: a zombie pins its group's number, and
 * signalling a group is atomic against fork, which ends fork storms. False when no child is left. */
static bool reap(struct execution *x, int64_t now) {
  for (;;) {
    siginfo_t info = {0};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 && errno != EINTR) return false;
    pid_t pid = info.si_pid;
    if (pid == 0) return true;
    pid_t group = x->phase == KILLING ? getpgid(pid) : -1;
    if (group > 1 && group != getpgrp()) kill(-group, SIGKILL);
    int status = 0;
    if (waitpid(pid, &status, __WALL) != pid) continue;
    x->progress_at = now;
    if (pid != x->command) continue;
    x->command = 0;
    x->outcome.wait_status = status;
    x->outcome.finished_at_ms = real_ms();
    x->outcome.duration_ms = now - x->started;
    read_report(x);
  }
}

static bool tree_left(struct execution *x, int64_t now) {
  bool children = reap(x, now); /* always: it must also happen when the cgroup is populated */
  return children || cgroup_populated(&x->cgroup);
}

static bool kill_tree(struct execution *x, int64_t now) {
  cgroup_kill(&x->cgroup);
  int rounds = now - x->progress_at < SPIN_MS ? KILL_ROUNDS : 1; /* at first without a pause: a fork storm must not gain ground */
  for (int round = 0; round < rounds; round++) {
    if (x->command > 0) {
      kill(-x->command, SIGKILL);
      kill(x->command, SIGKILL);
    }
    tree_kill();
    if (!tree_left(x, now)) return true;
  }
  return false;
}

static void begin_termination(struct execution *x, int64_t now) {
  x->phase = TERMINATING;
  x->kill_at = now + x->spec.grace_ms;
  if (x->spec.grace_ms == 0) return;
  if (tree_terminate() == 0 && x->command > 0) kill(x->command, SIGTERM); /* no /proc */
}

static void begin_killing(struct execution *x, int64_t now) {
  x->phase = KILLING;
  x->outcome.killed = true;
  x->progress_at = now;
  setpriority(PRIO_PROCESS, 0, -20); /* to outrun whoever forks; fine when refused */
}

static void begin_draining(struct execution *x, int64_t now) {
  x->phase = DRAINING;
  x->drain_at = now + x->spec.drain_ms;
}

/* ---- the loop ---- */

static void read_control(struct execution *x, int64_t now) {
  char bytes[64];
  bool cancel = false;
  for (ssize_t n; (n = read(x->control, bytes, sizeof bytes)) > 0;) cancel = cancel || memchr(bytes, 'c', (size_t)n) != NULL;
  if (!cancel || x->phase == TERMINATING || x->phase == KILLING) return;
  if (x->phase == RUNNING && x->command > 0) x->outcome.cancelled = true;
  begin_termination(x, now);
}

/* False when the execution is over. */
static bool advance(struct execution *x, int64_t now) {
  if (x->phase == RUNNING && x->command == 0) begin_draining(x, now);
  if (x->phase == RUNNING && now >= x->timeout_at) {
    x->outcome.timed_out = true;
    begin_termination(x, now);
  }
  if (x->phase == TERMINATING) {
    if (!tree_left(x, now)) begin_draining(x, now);
    else if (now >= x->kill_at) begin_killing(x, now);
  }
  if (x->phase == KILLING && (kill_tree(x, now) || now - x->progress_at >= UNKILLABLE_MS)) begin_draining(x, now);
  if (x->phase != DRAINING) return true;
  bool done = true;
  for (int i = 0; i < 2; i++) {
    if (now >= x->drain_at) stream_limit(&x->streams[i]);
    done = done && stream_done(&x->streams[i]);
  }
  if (!done || !tree_left(x, now)) return !done;
  if (x->settle_at == 0) x->settle_at = now + SETTLE_MS; /* a process between closing its files and its end is no left-over */
  return now < x->settle_at;
}

static void check_folder(struct execution *x, int64_t now) {
  if (x->abandoned || !folder_gone(x->dir)) return;
  x->abandoned = true; /* nobody can want the output or the status any more */
  begin_killing(x, now);
}

static void serve_streams(struct execution *x, const struct pollfd polled[2], int64_t now) {
  bool stored = false;
  for (int i = 0; i < 2; i++) {
    struct stream *stream = &x->streams[i];
    if (polled[i].fd >= 0 && polled[i].revents == POLLHUP) stream_hangup(stream);
    else if (polled[i].fd >= 0 && polled[i].revents != 0) stored = stream_read(stream, now) || stored;
    if (stream->retry_at != 0 && now >= stream->retry_at) {
      stored = stream_retry(stream, now) || stored;
      if (stream->retry_at != 0) check_folder(x, now);
    }
    if (x->abandoned) stream_abandon(stream);
  }
  x->hint_due = x->hint_due || stored;
  if (x->hint_due && now >= x->hint_at) {
    hint(x->id, "output", NULL);
    x->hint_due = false;
    x->hint_at = now + HINT_EVERY_MS;
  }
}

static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }

/* One timer on CLOCK_BOOTTIME, which counts while the machine sleeps; poll's own timeout does not. */
static void arm(struct execution *x, int64_t now) {
  int64_t next = NEVER;
  if (x->phase == RUNNING) next = x->timeout_at;
  if (x->phase == TERMINATING) next = earlier(x->kill_at, x->cgroup.dir >= 0 ? now + SETTLE_MS : NEVER);
  if (x->phase == KILLING) next = now + KILL_AGAIN_MS;
  if (x->phase == DRAINING) next = x->settle_at != 0 ? x->settle_at : now < x->drain_at ? x->drain_at : NEVER;
  if (x->hint_due) next = earlier(next, x->hint_at);
  for (int i = 0; i < 2; i++) {
    if (x->streams[i].retry_at != 0) next = earlier(next, x->streams[i].retry_at);
  }
  if (next == x->armed_at) return;
  x->armed_at = next;
  struct itimerspec when = {0}; /* zero disarms */
  if (next != NEVER) when.it_value = (struct timespec){.tv_sec = next / 1000, .tv_nsec = next % 1000 * 1000000 + 1};
  timerfd_settime(x->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void loop(struct execution *x) {
  while (advance(x, boot_ms())) {
    struct pollfd polled[6] = {{.fd = -1, .events = POLLIN}, {.fd = -1, .events = POLLIN}, {.fd = x->control, .events = POLLIN},
                               {.fd = x->signals, .events = POLLIN}, {.fd = x->timer, .events = POLLIN}, {.fd = x->report, .events = POLLIN}};
    for (int i = 0; i < 2; i++) {
      if (stream_wants_input(&x->streams[i])) polled[i].fd = x->streams[i].pipe;
    }
    arm(x, boot_ms());
    if (poll(polled, 6, -1) < 0) continue;
    int64_t now = boot_ms();
    struct signalfd_siginfo info;
    uint64_t ticks;
    if (polled[4].revents != 0 && read(x->timer, &ticks, sizeof ticks) > 0) x->armed_at = 0;
    if (polled[5].revents != 0) read_report(x);
    if (polled[3].revents != 0) {
      while (read(x->signals, &info, sizeof info) > 0) continue;
      reap(x, now); /* before timeout and cancel are looked at: who has ended has not timed out */
    }
    if (polled[2].revents != 0) read_control(x, now);
    serve_streams(x, polled, now);
  }
}

/* ---- end ---- */

static void end(struct execution *x) {
  x->outcome.tree_empty = !tree_left(x, boot_ms());
  if (!x->outcome.tree_empty) {
    x->outcome.leftover = tree_count();
    if (x->outcome.leftover == 0) x->outcome.leftover = 1; /* it ends this instant, or only its cgroup knows it */
  }
  cgroup_remove(&x->cgroup);
  if (x->abandoned) return;
  if (x->outcome.finished_at_ms == 0) { /* could not fork, or did not die */
    x->outcome.finished_at_ms = real_ms();
    x->outcome.duration_ms = boot_ms() - x->started;
  }
  if (x->command > 0) {
    x->outcome.wait_status = SIGKILL; /* as waitpid would have told it */
    reason(x->outcome.failure.text, "the command still exists: SIGKILL had no effect for %d s", UNKILLABLE_MS / 1000);
  }
  for (int i = 0; i < 2; i++) stream_sync(&x->streams[i]);
  status_write(x->dir, x->status, x->id, &x->outcome, x->streams);
}

/* The lock comes after everything else that another execution in this folder could meet. */
static void release(struct execution *x) {
  int *const fds[] = {&x->control, &x->input, &x->signals, &x->timer, &x->report, &x->lock};
  for (int i = 0; i < 2; i++) stream_close(&x->streams[i]);
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
}

int supervise(int dir, const char *id) {
  struct execution x = {.dir = dir, .lock = -1, .control = -1, .status = -1, .input = -1, .signals = -1, .timer = -1, .report = -1, .id = id};
  x.cgroup = (struct cgroup){.parent = -1, .dir = -1};
  for (int i = 0; i < 2; i++) x.streams[i] = (struct stream){.pipe = -1, .segment = -1};
  char error[REASON_BYTES] = "";
  int begun = begin(&x, error);
  spec_free(&x.spec); /* up to 8 MiB that only the command needed; numbers stay */
  if (begun == EXIT_STATUS_WRITTEN) {
    x.timeout_at = x.spec.timeout_ms > 0 ? x.started + x.spec.timeout_ms : NEVER;
    hint(id, "claimed", NULL);
    loop(&x);
    end(&x);
  }
  release(&x);
  /* After the lock is free: whoever hears of it may ask for another start, or use the folder again, at once. */
  if (begun == EXIT_BUSY) hint(id, "busy", NULL);
  if (begun == EXIT_FAILED) hint(id, "failed", error);
  if (begun == EXIT_STATUS_WRITTEN && !x.abandoned) {
    hint(id, "exited", NULL);
    status_sync(x.dir, x.status, id);
  }
  if (x.status >= 0) close(x.status);
  close(x.dir);
  return begun;
}
