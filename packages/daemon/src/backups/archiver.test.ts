import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { ArchiveJob } from './archive-job.ts';
import { threadArchiver } from './archiver.ts';

test('a thread that hangs in the kernel holds up nobody once it is to end', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-archiver-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'data'), randomBytes(8 * 1024 * 1024));
  // As a dead network file system would: who writes to a full pipe that nobody reads waits, uninterrupted.
  execFileSync('mkfifo', [join(folder, 'pipe')]);
  const reading = openSync(join(folder, 'pipe'), constants.O_RDONLY | constants.O_NONBLOCK);
  onTestFinished(() => closeSync(reading)); // lets it go: nobody will ever read
  const pipe = openSync(join(folder, 'pipe'), 'w');
  const output: ArchiveJob['output'] = {
    kind: 'files',
    archive: pipe,
    manifest: openSync(join(folder, 'manifest'), 'w'),
  };
  const job: ArchiveJob = {
    kind: 'archive',
    sources: [join(folder, 'data')],
    excludes: {
      patterns: [],
      ipatterns: [],
      files: [],
      ifiles: [],
      caches: false,
      if_present: [],
      one_file_system: false,
    },
    leaveOut: [],
    level: 1,
    recipients: [],
    header: {},
    maxArchiveBytes: undefined,
    estimate: null,
    output,
  };
  const over = new AbortController();
  const { done } = threadArchiver({ nativeDir: undefined, abortMs: 50 })(job, {
    part: () => undefined,
    progress: () => undefined,
    signal: over.signal,
  });
  await vi.waitFor(() => readSync(reading, Buffer.alloc(1)), { timeout: 30_000 }); // it writes
  over.abort();
  await expect(done).rejects.toMatchObject({ code: 'backups.cancelled' });
});
