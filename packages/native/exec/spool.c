/* One output stream: pipe → hash → segments, within its bound of bytes on disk. Nothing read is ever dropped: what cannot
 * be stored now stays in the buffer, and a pipe that is not read slows its writer. */
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BUFFER_BYTES = 256 * 1024, PIPE_BYTES = 1 << 20, BUSY_BYTES = 32 * 1024, FULL_RECHECK_MS = 5, FULL_PATIENT_MS = 50, PATIENT_AFTER = 400, ERROR_RETRY_MS = 100, NAME_BYTES = 32 };

static void segment_name(const struct stream *stream, int64_t offset, char name[NAME_BYTES]) {
  snprintf(name, NAME_BYTES, "%s.%020lld", stream->name, (long long)offset);
}

bool stream_open(struct stream *stream, const char *name, int dir, int pipe, const struct spec *spec) {
  *stream = (struct stream){.name = name, .dir = dir, .pipe = pipe, .segment = -1, .last_bytes = -1};
  stream->segment_bytes = spec->segment_bytes;
  stream->spool_bytes = spec->spool_bytes;
  stream->full = calloc((size_t)(spec->spool_bytes / spec->segment_bytes), sizeof *stream->full);
  sha256_init(&stream->hash);
  return stream->full != NULL;
}

static int64_t room(const struct stream *stream) {
  return stream->spool_bytes - (int64_t)stream->full_count * stream->segment_bytes - stream->segment_used;
}

bool stream_wants_input(const struct stream *stream) { return stream->pipe >= 0 && stream->retry_at == 0; }

bool stream_done(const struct stream *stream) { return stream->pipe < 0 && stream->pending == 0; }

static void end_input(struct stream *stream) {
  close(stream->pipe);
  stream->pipe = -1;
}

/* Forgets full segments that the daemon has unlinked, in whatever order it did. */
static void recount(struct stream *stream) {
  size_t kept = 0;
  for (size_t i = 0; i < stream->full_count; i++) {
    char name[NAME_BYTES];
    segment_name(stream, stream->full[i], name);
    if (faccessat(stream->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT) stream->full[kept++] = stream->full[i];
  }
  stream->full_count = kept;
}

/* Writes what is pending; at an error leaves the rest for later. */
static bool store(struct stream *stream, int64_t now) {
  bool some = false;
  while (stream->pending > 0) {
    if (stream->segment < 0) {
      char name[NAME_BYTES];
      segment_name(stream, stream->stored, name);
      stream->segment = openat(stream->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    }
    int64_t left = stream->segment_bytes - stream->segment_used;
    size_t size = (int64_t)stream->pending < left ? stream->pending : (size_t)left;
    ssize_t n = stream->segment < 0 ? -1 : write(stream->segment, stream->buffer + stream->pending_at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) { /* ENOSPC, EDQUOT, EIO, or no descriptor: all of them may pass */
      stream->retry_at = now + ERROR_RETRY_MS;
      return some;
    }
    some = true;
    stream->pending_at += (size_t)n;
    stream->pending -= (size_t)n;
    stream->stored += n;
    stream->segment_used += n;
    if (stream->segment_used == stream->segment_bytes) { /* closed at once: an open descriptor would keep its blocks after unlink */
      close(stream->segment);
      stream->segment = -1;
      stream->segment_used = 0;
      stream->full[stream->full_count++] = stream->stored - stream->segment_bytes;
    }
  }
  stream->retry_at = 0;
  return some;
}

/* The look is needed: the kernel may see the pipe empty, then its last writer write and leave, and call that a hang-up without input. */
void stream_hangup(struct stream *stream) {
  int size = 0;
  if (ioctl(stream->pipe, FIONREAD, &size) == 0 && size == 0) end_input(stream);
}

bool stream_read(struct stream *stream, int64_t now) {
  if (room(stream) <= 0) recount(stream);
  int64_t want = room(stream);
  if (want <= 0) {
    stream->retry_at = now + (stream->stalls++ < PATIENT_AFTER ? FULL_RECHECK_MS : FULL_PATIENT_MS); /* the daemon may be away for hours */
    return false;
  }
  stream->stalls = 0;
  if (stream->buffer == NULL) stream->buffer = malloc(BUFFER_BYTES); /* most commands write little or nothing */
  if (stream->buffer == NULL) {
    stream->retry_at = now + ERROR_RETRY_MS;
    return false;
  }
  if (want > BUFFER_BYTES) want = BUFFER_BYTES;
  if (stream->last_bytes >= 0 && want > stream->last_bytes) want = stream->last_bytes;
  ssize_t n = read(stream->pipe, stream->buffer, (size_t)want);
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) stream->retry_at = now + ERROR_RETRY_MS; /* only an end is an end */
    return false;
  }
  if (n == 0) {
    end_input(stream);
    return false;
  }
  if (n >= BUSY_BYTES && !stream->widened) {
    fcntl(stream->pipe, F_SETPIPE_SZ, PIPE_BYTES); /* refused beyond the user's limit of pipe memory: then it stays as it is */
    stream->widened = true;
  }
  sha256_update(&stream->hash, stream->buffer, (size_t)n);
  stream->pending_at = 0;
  stream->pending = (size_t)n;
  if (stream->last_bytes >= 0 && (stream->last_bytes -= n) == 0) end_input(stream);
  return store(stream, now);
}

bool stream_retry(struct stream *stream, int64_t now) {
  stream->retry_at = 0;
  if (stream->pending > 0) return store(stream, now);
  return stream->pipe >= 0 && stream_read(stream, now);
}

void stream_limit(struct stream *stream) {
  int size = 0;
  if (stream->pipe < 0 || stream->last_bytes >= 0) return;
  if (ioctl(stream->pipe, FIONREAD, &size) != 0 || size <= 0) end_input(stream);
  else stream->last_bytes = size;
}

/* So that a status on disk never describes output that a power cut could still take. */
void stream_sync(struct stream *stream) {
  if (stream->segment >= 0) fdatasync(stream->segment);
  recount(stream);
  for (size_t i = 0; i < stream->full_count; i++) {
    char name[NAME_BYTES];
    segment_name(stream, stream->full[i], name);
    int fd = openat(stream->dir, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    fdatasync(fd);
    close(fd);
  }
}

void stream_abandon(struct stream *stream) {
  if (stream->pipe >= 0) end_input(stream);
  stream->pending = 0;
  stream->retry_at = 0;
}

void stream_close(struct stream *stream) {
  if (stream->pipe >= 0) end_input(stream);
  if (stream->segment >= 0) close(stream->segment);
  free(stream->full);
  free(stream->buffer);
}
