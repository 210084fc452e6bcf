/* aegis-exec: runs one command per execution folder and outlives whoever asked for it. docs/execution.md is the protocol.
 * Order of reading: main.c, launcher.c, supervise.c (one page: begin, loop, end), then spool.c, tree.c, command.c.
 * Invariants: the claim is made before the command starts; every byte of the pipes reaches a segment before the
 * status is written; nothing but an unreaped child or a verified pidfd is ever signalled. */
#ifndef AEGIS_EXEC_H
#define AEGIS_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "sha256.h"

#define AEGIS_EXEC_VERSION "0.1.0"

/* spec.c: what to run. All pointers point into `text`. */
struct spec {
  char *text;
  char **argv, **env;
  const char *cwd, *user, *boot_id, *cgroup;
  mode_t umask;
  int64_t timeout_ms, grace_ms, drain_ms, spool_bytes, segment_bytes;
  bool has_stdin;
};
/* False with a sentence in `error` (of REASON_BYTES). spec_free is safe in either case. */
bool spec_read(struct spec *spec, int dir, char *error);
void spec_free(struct spec *spec);

enum { REASON_BYTES = 400 };
void reason(char *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* spool.c: one output stream, from its pipe into segments. */
struct stream {
  const char *name;
  int dir, pipe;             /* pipe is -1 after its end */
  bool widened;              /* its pipe holds more than the kernel gives at first */
  int segment;               /* the segment being filled, -1 between two */
  int64_t segment_used, segment_bytes, spool_bytes;
  int64_t stored;            /* bytes in segments so far: the offset of the next byte */
  int64_t *full;             /* offsets of full segments that may still be on disk */
  size_t full_count;
  uint8_t *buffer;           /* read and hashed, not yet stored: [pending_at, pending_at + pending) */
  size_t pending, pending_at;
  int64_t last_bytes;        /* after the drain limit: how much is still read; -1 before */
  int64_t retry_at;          /* when to look for room again; 0 when nothing is in the way */
  unsigned stalls;           /* looks in vain since there was room */
  struct sha256 hash;
};
bool stream_open(struct stream *stream, const char *name, int dir, int pipe, const struct spec *spec);
bool stream_wants_input(const struct stream *stream);
bool stream_done(const struct stream *stream);
void stream_hangup(struct stream *stream);             /* nobody writes any more; what was written may still be there */
bool stream_read(struct stream *stream, int64_t now);  /* true when something was stored */
bool stream_retry(struct stream *stream, int64_t now); /* call at retry_at; true when something was stored */
void stream_limit(struct stream *stream);              /* read what is in the pipe now, nothing that comes later */
void stream_sync(struct stream *stream);
void stream_abandon(struct stream *stream);
void stream_close(struct stream *stream);

/* cgroup.c: optional; with dir == -1 every call is a no-op. */
struct cgroup {
  int parent, dir;
  char name[80];
};
void cgroup_create(struct cgroup *cgroup, const char *parent, const char *id);
pid_t cgroup_fork(const struct cgroup *cgroup, bool *inside); /* the child is born in the cgroup, where the kernel can do that */
void cgroup_join(const struct cgroup *cgroup);               /* moves the calling process */
bool cgroup_populated(const struct cgroup *cgroup);
void cgroup_kill(const struct cgroup *cgroup);
void cgroup_remove(struct cgroup *cgroup); /* when empty; else it stays */

/* tree.c: all descendants of this process, which is their subreaper. */
/* Each returns how many live processes it saw. */
size_t tree_terminate(void); /* SIGTERM and SIGCONT */
size_t tree_kill(void);      /* SIGKILL */
size_t tree_count(void);

/* command.c: the child's side. */
void ignore_signals(void); /* those that would end a supervisor or launcher; the command gets the defaults back */
struct command_files {
  int in, out, err, report;
};
struct spawn_failure {
  int exit_code;
  char text[REASON_BYTES];
};
_Noreturn void command_become(const struct spec *spec, const struct command_files *files);

/* record.c: claim, status, hints, time. */
struct outcome {
  bool timed_out, cancelled, tree_empty, killed;
  size_t leftover;
  int wait_status;
  int64_t started_at_ms, finished_at_ms, duration_ms;
  struct spawn_failure failure; /* exit_code 0 when the command started */
};
int64_t boot_ms(void);
int64_t real_ms(void);
bool folder_gone(int dir);
void hint(const char *id, const char *kind, const char *detail);
/* 1 made, 0 someone else has it, -1 neither, with `error`. */
int claim_make(int dir, const char *boot_id, int64_t started_at_ms, char *error);
int status_preallocate(int dir, char *error); /* a descriptor, or -1 with `error` */
void status_write(int dir, int fd, const char *id, const struct outcome *outcome, const struct stream streams[2]);
void status_sync(int dir, int fd, const char *id); /* a moment later, and only when the folder still waits for the server */

/* supervise.c, launcher.c */
enum { EXIT_STATUS_WRITTEN = 0, EXIT_FAILED = 1, EXIT_BUSY = 3 };
const char *execution_id(const char *path); /* NULL when the last part of the path cannot be one */
int open_folder(const char *path);
int supervise(int dir, const char *id); /* takes `dir`; returns one of the above */
int launch(void);

#endif
