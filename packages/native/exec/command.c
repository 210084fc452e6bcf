/* The child between fork and exec: becomes the command. Each step that fails ends it with a sentence for the status. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REPORT_FD = 3, CANNOT_RUN = 126, NOT_FOUND = 127, SOFT_FILES = 1024 };

__attribute__((format(printf, 2, 3))) static _Noreturn void fail(int exit_code, const char *format, ...) {
  struct spawn_failure failure = {.exit_code = exit_code};
  va_list list;
  va_start(list, format);
  vsnprintf(failure.text, sizeof failure.text, format, list);
  va_end(list);
  while (write(REPORT_FD, &failure, sizeof failure) < 0 && errno == EINTR) continue;
  _exit(exit_code);
}

static void close_from(unsigned first) {
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
  long limit = sysconf(_SC_OPEN_MAX); /* before Linux 5.9 */
  for (int fd = (int)first; fd < limit; fd++) close(fd);
}

/* A machine going down tells everyone to end: the command then does, and the supervisor reports it. The last two come back as errors of write. */
static const int ignored_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGXFSZ};

/* What was ignored before becomes default here, once, so that each command need not look at all of them. */
void ignore_signals(void) {
  for (int number = 1; number < NSIG; number++) {
    struct sigaction was;
    if (sigaction(number, NULL, &was) == 0 && was.sa_handler == SIG_IGN) signal(number, SIG_DFL);
  }
  for (size_t i = 0; i < sizeof ignored_signals / sizeof *ignored_signals; i++) signal(ignored_signals[i], SIG_IGN);
}

static void default_signals(void) {
  sigset_t none;
  for (size_t i = 0; i < sizeof ignored_signals / sizeof *ignored_signals; i++) signal(ignored_signals[i], SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What the daemon's unit or Node.js set for the daemon itself is not for its commands: protection from the OOM killer, and a soft limit of
 * open files beyond what programs with select() stand. The hard limit stays, so a command may raise its own. */
static void default_limits(void) {
  struct rlimit files;
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (write(fd, "0", 1) != 1) errno = 0; /* lowering it again takes a privilege; then it was not protected either */
    close(fd);
  }
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > SOFT_FILES) {
    files.rlim_cur = SOFT_FILES;
    setrlimit(RLIMIT_NOFILE, &files);
  }
}

static const struct passwd *account(const char *user) {
  char *end = NULL;
  errno = 0;
  unsigned long uid = strtoul(user, &end, 10);
  bool numeric = user[0] >= '0' && user[0] <= '9' && *end == '\0' && errno == 0 && uid < (unsigned long)(uid_t)-1;
  errno = 0;
  const struct passwd *found = numeric ? getpwuid((uid_t)uid) : getpwnam(user);
  if (found == NULL && errno != 0 && errno != ENOENT && errno != ESRCH) fail(CANNOT_RUN, "cannot look up user '%.100s': %s", user, strerror(errno));
  if (found == NULL) fail(CANNOT_RUN, "there is no user '%.100s' on this node", user);
  return found;
}

static void switch_user(const char *user) {
  const struct passwd *to = account(user);
  uid_t uid = to->pw_uid, r = 0, e = 0, s = 0;
  gid_t gid = to->pw_gid, rg = 0, eg = 0, sg = 0;
  if (geteuid() != 0 && uid == geteuid() && uid == getuid()) return; /* already there, and not able to be anyone else */
  /* Pipes and stdin belong to the supervisor's user: without this the command could not open /dev/stdout or /dev/stdin. */
  bool moved = fchown(STDOUT_FILENO, uid, gid) == 0 && fchown(STDERR_FILENO, uid, gid) == 0 && initgroups(to->pw_name, gid) == 0 &&
               setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0;
  if (!moved) fail(CANNOT_RUN, "cannot become user '%.100s': %s", user, strerror(errno));
  bool held = getresuid(&r, &e, &s) == 0 && getresgid(&rg, &eg, &sg) == 0 && r == uid && e == uid && s == uid && rg == gid && eg == gid && sg == gid;
  if (!held || (uid != 0 && setuid(0) == 0)) fail(CANNOT_RUN, "cannot become user '%.100s': the change did not hold", user);
}

_Noreturn void command_become(const struct spec *spec, const struct command_files *files) {
  setsid();
  if (dup2(files->in, STDIN_FILENO) < 0 || dup2(files->out, STDOUT_FILENO) < 0 || dup2(files->err, STDERR_FILENO) < 0) _exit(CANNOT_RUN);
  if (files->report != REPORT_FD && dup2(files->report, REPORT_FD) < 0) _exit(CANNOT_RUN);
  fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC);
  close_from(REPORT_FD + 1);
  default_signals();
  default_limits();
  umask(spec->umask);
  if (spec->user != NULL) switch_user(spec->user);
  if (chdir(spec->cwd) != 0) fail(CANNOT_RUN, "cannot change to '%.250s': %s", spec->cwd, strerror(errno));
  environ = spec->env;
  execvpe(spec->argv[0], spec->argv, spec->env); /* looks argv[0] up in the PATH of environ */
  int error = errno;
  bool lookup = strchr(spec->argv[0], '/') == NULL;
  if (error == ENOENT && lookup) fail(NOT_FOUND, "cannot find '%.200s' in PATH", spec->argv[0]);
  fail(error == ENOENT ? NOT_FOUND : CANNOT_RUN, "cannot execute '%.250s': %s", spec->argv[0], strerror(error));
}
