/* The three ways in: --launcher, --run, --version. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int usage(void) {
  fputs("usage: aegis-exec --launcher        start supervisors on request (see docs/execution.md)\n"
        "       aegis-exec --run FOLDER     supervise one execution in the foreground\n"
        "       aegis-exec --version | --self-test\n", stderr);
  return 2;
}

/* Standard descriptors must be taken, or a pipe would become number 0 to 2. What else was inherited is not ours. */
static bool settle_descriptors(void) {
  for (int fd = 0; fd < 3; fd++) {
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) return false;
  }
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
  close_range(3, ~0U, 0);
#endif
  return true;
}

static int prepare(void) {
  if (!settle_descriptors()) return EXIT_FAILED;
  umask(077);
  ignore_signals();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--version") == 0) return puts("aegis-exec " AEGIS_EXEC_VERSION) < 0;
  if (argc == 2 && strcmp(argv[1], "--self-test") == 0) return sha256_paths_agree() ? 0 : EXIT_FAILED;
  if (argc == 2 && strcmp(argv[1], "--launcher") == 0) {
    if (prepare() != 0 || chdir("/") != 0) return EXIT_FAILED;
    int in = fcntl(STDIN_FILENO, F_GETFL), out = fcntl(STDOUT_FILENO, F_GETFL);
    if (fcntl(STDIN_FILENO, F_SETFL, in & ~O_NONBLOCK) < 0 || fcntl(STDOUT_FILENO, F_SETFL, out | O_NONBLOCK) < 0) return EXIT_FAILED;
    return launch();
  }
  if (argc != 3 || strcmp(argv[1], "--run") != 0) return usage();
  if (prepare() != 0) return EXIT_FAILED;
  const char *id = execution_id(argv[2]);
  int dir = open_folder(argv[2]);
  if (dir >= 0 && id != NULL) return supervise(dir, id);
  fprintf(stderr, "aegis-exec: cannot use '%s': %s\n", argv[2], dir < 0 ? strerror(errno) : "its name is no execution id");
  if (dir >= 0) close(dir);
  return EXIT_FAILED;
}
