/* The spec file: NUL-terminated `key=value` records, bounded and strictly read. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SPEC_LIMIT = 8 * 1024 * 1024, SEGMENTS_LIMIT = 1024 };
static const int64_t NUMBER_LIMIT = (int64_t)1 << 53;

static bool number(const char *text, int base, int64_t *to) {
  int64_t value = 0;
  if (*text == '\0') return false;
  for (; *text != '\0'; text++) {
    if (*text < '0' || *text >= '0' + base) return false;
    value = value * base + (*text - '0');
    if (value > NUMBER_LIMIT) return false;
  }
  *to = value;
  return true;
}

static bool boot_id_ok(const char *text) {
  size_t size = strlen(text);
  return size > 0 && size <= 64 && strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == size;
}

static bool load(struct spec *spec, int dir, size_t *size, char *error) {
  int fd = openat(dir, "spec", O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return reason(error, "cannot open spec: %s", strerror(errno)), false;
  struct stat st;
  bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= SPEC_LIMIT;
  if (!ok) reason(error, "spec is not a file of at most %d bytes", SPEC_LIMIT);
  size_t expected = ok ? (size_t)st.st_size : 0;
  *size = 0;
  if (ok && (spec->text = malloc(expected + 1)) == NULL) reason(error, "out of memory"), ok = false;
  while (ok && *size < expected) {
    ssize_t n = read(fd, spec->text + *size, expected - *size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) reason(error, "cannot read spec: %s", n < 0 ? strerror(errno) : "it became shorter"), ok = false;
    else *size += (size_t)n;
  }
  close(fd);
  if (ok && (*size == 0 || spec->text[*size - 1] != '\0')) return reason(error, "spec is cut off: its last record has no end"), false;
  return ok;
}

/* One scalar record. False when key or value are not known. */
static bool scalar(struct spec *spec, const char *key, const char *value) {
  int64_t mode = 0;
  if (strcmp(key, "cwd") == 0) return spec->cwd = value, value[0] == '/';
  if (strcmp(key, "user") == 0) return spec->user = value, value[0] != '\0';
  if (strcmp(key, "boot_id") == 0) return spec->boot_id = value, boot_id_ok(value);
  if (strcmp(key, "cgroup") == 0) return spec->cgroup = value, value[0] == '/';
  if (strcmp(key, "stdin") == 0) return spec->has_stdin = value[0] == '1', strcmp(value, "0") == 0 || strcmp(value, "1") == 0;
  if (strcmp(key, "umask") == 0) return number(value, 8, &mode) && mode <= 0777 && (spec->umask = (mode_t)mode, true);
  if (strcmp(key, "timeout_ms") == 0) return number(value, 10, &spec->timeout_ms);
  if (strcmp(key, "grace_ms") == 0) return number(value, 10, &spec->grace_ms);
  if (strcmp(key, "drain_ms") == 0) return number(value, 10, &spec->drain_ms);
  if (strcmp(key, "spool_bytes") == 0) return number(value, 10, &spec->spool_bytes);
  if (strcmp(key, "segment_bytes") == 0) return number(value, 10, &spec->segment_bytes);
  return false;
}

bool spec_read(struct spec *spec, int dir, char *error) {
  static const char *const scalars[] = {"cwd",        "user",     "boot_id",  "cgroup",      "stdin",        "umask",
                                        "timeout_ms", "grace_ms", "drain_ms", "spool_bytes", "segment_bytes"};
  *spec = (struct spec){.cwd = "/", .umask = 022, .timeout_ms = 0, .grace_ms = 10000, .drain_ms = 2000};
  size_t size = 0, argc = 0, envc = 0;
  if (!load(spec, dir, &size, error)) return false;
  char *end = spec->text + size;
  for (char *at = spec->text; at < end; at += strlen(at) + 1) {
    argc += strncmp(at, "argv=", 5) == 0;
    envc += strncmp(at, "env=", 4) == 0;
  }
  spec->argv = calloc(argc + 1, sizeof *spec->argv);
  spec->env = calloc(envc + 1, sizeof *spec->env);
  if (spec->argv == NULL || spec->env == NULL) return reason(error, "out of memory"), false;
  argc = envc = 0;
  unsigned seen = 0;
  for (char *at = spec->text, *next; at < end; at = next) {
    next = at + strlen(at) + 1;
    char *value = strchr(at, '=');
    if (value == NULL) return reason(error, "spec: a record without '='"), false;
    *value++ = '\0';
    if (strcmp(at, "argv") == 0) {
      spec->argv[argc++] = value;
    } else if (strcmp(at, "env") == 0) {
      if (value[0] == '=' || strchr(value, '=') == NULL) return reason(error, "spec: an env record that is not NAME=value"), false;
      spec->env[envc++] = value;
    } else {
      unsigned bit = 0;
      for (size_t i = 0; i < sizeof scalars / sizeof *scalars; i++) bit |= strcmp(at, scalars[i]) == 0 ? 1U << i : 0U;
      if (bit == 0) return reason(error, "spec: unknown key '%.40s'", at), false;
      if ((seen & bit) != 0) return reason(error, "spec: '%s' occurs twice", at), false;
      seen |= bit;
      if (!scalar(spec, at, value)) return reason(error, "spec: bad value for '%s'", at), false;
    }
  }
  if (argc == 0) return reason(error, "spec: no argv"), false;
  if (spec->boot_id == NULL) return reason(error, "spec: no boot_id"), false;
  if (spec->segment_bytes < 1 || spec->spool_bytes < spec->segment_bytes || spec->spool_bytes / spec->segment_bytes > SEGMENTS_LIMIT)
    return reason(error, "spec: spool_bytes must be 1 to %d times segment_bytes", SEGMENTS_LIMIT), false;
  return true;
}

void spec_free(struct spec *spec) {
  free(spec->text);
  free(spec->argv);
  free(spec->env);
  spec->text = NULL, spec->argv = NULL, spec->env = NULL;
  spec->cwd = spec->user = spec->boot_id = spec->cgroup = NULL;
}
