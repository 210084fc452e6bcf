/* The resident launcher: forks a supervisor for each `start <folder>` on standard input and ends with it. It keeps nothing:
 * supervisors do not notice its end. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = PATH_MAX + 8 };

const char *execution_id(const char *path) {
  const char *slash = strrchr(path, '/'), *id = slash == NULL ? path : slash + 1;
  size_t size = strlen(id);
  bool ok = size > 0 && size <= 64 && id[0] != '-' && id[0] != '_' &&
            strspn(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == size;
  return ok ? id : NULL;
}

int open_folder(const char *path) { return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }

static void start(const char *path, int null) {
  const char *id = execution_id(path);
  if (id == NULL || path[0] != '/') {
    hint("-", "failed", "start needs an absolute folder whose name is an execution id");
    return;
  }
  int dir = open_folder(path);
  if (dir < 0) {
    hint(id, "failed", errno == ENOENT ? "there is no such folder" : strerror(errno));
    return;
  }
  pid_t pid = fork();
  if (pid == 0) {
    setsid();
    dup2(null, STDIN_FILENO); /* else the daemon would never see the launcher's input closed */
#if !defined(__SANITIZE_ADDRESS__)
    dup2(null, STDERR_FILENO); /* nor whoever reads the daemon's own output its end */
#endif
    close(null);
    signal(SIGCHLD, SIG_DFL);
    int result = supervise(dir, id);
    exit(result);
  }
  if (pid < 0) hint(id, "failed", "cannot fork a supervisor");
  close(dir);
}

int launch(void) {
  char *line = malloc(LINE_BYTES);
  size_t used = 0;
  bool skip = false; /* the rest of a line that was too long */
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (line == NULL || null < 0) return EXIT_FAILED;
  signal(SIGCHLD, SIG_IGN); /* the kernel reaps */
  for (;;) {
    ssize_t n = read(STDIN_FILENO, line + used, LINE_BYTES - used);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    used += (size_t)n;
    char *from = line, *newline;
    while ((newline = memchr(from, '\n', used - (size_t)(from - line))) != NULL) {
      *newline = '\0';
      if (!skip && strncmp(from, "start ", 6) == 0) start(from + 6, null);
      else hint("-", "failed", skip ? "line too long" : "unknown request");
      skip = false;
      from = newline + 1;
    }
    used -= (size_t)(from - line);
    memmove(line, from, used);
    if (used == LINE_BYTES) skip = true, used = 0;
  }
  free(line);
  close(null);
  return 0;
}
