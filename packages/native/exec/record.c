/* What the supervisor leaves behind and says: claim, status, hints. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { SYNC_AFTER_MS = 0 }; /* the leak check comes at the end of the process, while its test still looks */
#else
enum { SYNC_AFTER_MS = 500 };
#endif
enum { STATUS_BYTES = 4096, STATUS_RETRY_MS = 100 };

static int64_t clock_ms(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t boot_ms(void) { return clock_ms(CLOCK_BOOTTIME); }
int64_t real_ms(void) { return clock_ms(CLOCK_REALTIME); }

bool folder_gone(int dir) {
  struct stat st;
  return fstat(dir, &st) == 0 && st.st_nlink == 0;
}

void reason(char *to, const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(to, REASON_BYTES, format, list);
  va_end(list);
}

/* One write, shorter than PIPE_BUF, so lines of many supervisors never mix. Nobody may be listening: that is fine. */
void hint(const char *id, const char *kind, const char *detail) {
  char line[REASON_BYTES + 128];
  int size = snprintf(line, sizeof line, detail == NULL ? "%s %s" : "%s %s %s", id, kind, detail);
  if (size < 0 || (size_t)size > sizeof line - 2) size = (int)sizeof line - 2;
  for (int i = 0; i < size; i++) {
    if (line[i] == '\n') line[i] = ' ';
  }
  line[size] = '\n';
  if (write(STDOUT_FILENO, line, (size_t)size + 1) < 0) return;
}

/* Overwrites the file from its start. It may be one of an earlier execution in this folder, so it is cut to size. */
static bool rewrite(int fd, const char *text, size_t size) {
  struct stat st;
  return pwrite(fd, text, size, 0) == (ssize_t)size && fstat(fd, &st) == 0 && (st.st_size == (off_t)size || ftruncate(fd, (off_t)size) == 0);
}

/* The claim appears whole, by link: a name that exists half-written would be a decision that nobody can read. It is not synced: it decides
 * between processes of this boot, and for later ones the daemon's journal does (docs/decisions/0004). claim.tmp stays for the next execution
 * in this folder; nobody but the holder of the lock writes it, and only while there is no claim. */
int claim_make(int dir, const char *boot_id, int64_t started_at_ms, char *error) {
  char text[160];
  int size = snprintf(text, sizeof text, "{\"boot_id\":\"%s\",\"started_at_ms\":%lld}\n", boot_id, (long long)started_at_ms);
  int fd = openat(dir, "claim.tmp", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  int made = -1;
  errno = 0;
  if (fd < 0 || !rewrite(fd, text, (size_t)size)) {
    reason(error, "cannot write the claim: %s", strerror(errno == 0 ? ENOSPC : errno));
  } else if (linkat(dir, "claim.tmp", dir, "claim", 0) != 0) {
    made = errno == EEXIST ? 0 : -1;
    reason(error, "cannot make the claim: %s", strerror(errno));
  } else {
    made = 1;
  }
  if (fd >= 0) close(fd);
  return made;
}

int status_preallocate(int dir, char *error) {
  int fd = openat(dir, "status.tmp", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return reason(error, "cannot create status.tmp: %s", strerror(errno)), -1;
  if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, STATUS_BYTES) == 0) return fd;
  char blank[STATUS_BYTES] = {0};
  if (errno == EOPNOTSUPP && pwrite(fd, blank, sizeof blank, 0) == (ssize_t)sizeof blank) return fd;
  reason(error, "cannot reserve room for the status: %s", strerror(errno));
  close(fd);
  unlinkat(dir, "status.tmp", 0);
  return -1;
}

static void append(char *text, size_t *size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void append(char *text, size_t *size, const char *format, ...) {
  va_list list;
  va_start(list, format);
  int n = vsnprintf(text + *size, STATUS_BYTES - *size, format, list);
  va_end(list);
  if (n > 0) *size += (size_t)n < STATUS_BYTES - *size ? (size_t)n : STATUS_BYTES - 1 - *size;
}

static const char *boolean(bool value) { return value ? "true" : "false"; }

static void append_quoted(char *text, size_t *size, const char *value) {
  append(text, size, "\"");
  for (const char *at = value; *at != '\0'; at++) {
    unsigned char c = (unsigned char)*at;
    if (c == '"' || c == '\\') append(text, size, "\\%c", c);
    else if (c < 0x20 || c == 0x7f) append(text, size, "\\u%04x", c);
    else append(text, size, "%c", c); /* bytes above 0x7f as they are: readers decode leniently */
  }
  append(text, size, "\"");
}

static size_t compose(char *text, const char *id, const struct outcome *o, const struct stream streams[2]) {
  size_t size = 0;
  bool failed = o->failure.exit_code != 0, signaled = !failed && WIFSIGNALED(o->wait_status);
  append(text, &size, "{\"execution_id\":\"%s\"", id);
  append(text, &size, ",\"outcome\":\"%s\"", failed ? "spawn_failed" : signaled ? "signaled" : "exited");
  if (signaled) append(text, &size, ",\"exit_code\":null,\"signal\":%d", WTERMSIG(o->wait_status));
  else append(text, &size, ",\"exit_code\":%d,\"signal\":null", failed ? o->failure.exit_code : WEXITSTATUS(o->wait_status));
  append(text, &size, ",\"timed_out\":%s,\"cancelled\":%s", boolean(o->timed_out), boolean(o->cancelled));
  append(text, &size, ",\"tree_empty\":%s,\"leftover\":%zu,\"killed\":%s", boolean(o->tree_empty), o->leftover, boolean(o->killed));
  append(text, &size, ",\"started_at_ms\":%lld,\"finished_at_ms\":%lld,\"duration_ms\":%lld", (long long)o->started_at_ms,
         (long long)o->finished_at_ms, (long long)o->duration_ms);
  for (int i = 0; i < 2; i++) {
    char hex[65];
    sha256_hex(&streams[i].hash, hex);
    append(text, &size, ",\"%s\":{\"bytes\":%lld,\"sha256\":\"%s\"}", streams[i].name, (long long)streams[i].stored, hex);
  }
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  append(text, &size, ",\"usage\":{\"user_us\":%lld,\"system_us\":%lld,\"max_rss_kb\":%ld}",
         (long long)usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec,
         (long long)usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec, usage.ru_maxrss);
  append(text, &size, ",\"error\":");
  if (o->failure.text[0] != '\0') append_quoted(text, &size, o->failure.text);
  else append(text, &size, "null");
  append(text, &size, "}\n");
  return size;
}

/* Comes back when the status is there, or when nobody can want it any more. */
void status_write(int dir, int fd, const char *id, const struct outcome *outcome, const struct stream streams[2]) {
  char text[STATUS_BYTES];
  size_t size = compose(text, id, outcome, streams);
  const struct timespec pause = {.tv_nsec = STATUS_RETRY_MS * 1000000L};
  while (!rewrite(fd, text, size) || renameat(dir, "status.tmp", dir, "status") != 0) {
    if (folder_gone(dir)) return;
    nanosleep(&pause, NULL);
  }
}

/* Most reports reach the server within moments, and the folder is gone or serves another execution; what is still waiting must survive a
 * power cut from now on. */
void status_sync(int dir, int fd, const char *id) {
  char path[128];
  const struct timespec pause = {.tv_nsec = SYNC_AFTER_MS * 1000000L};
  snprintf(path, sizeof path, "../%s/status", id);
  nanosleep(&pause, NULL);
  if (faccessat(dir, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0) return;
  fsync(fd);
  fsync(dir);
}
