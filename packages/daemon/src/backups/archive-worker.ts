import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import { createArchive } from '@aegis/archive/backup/create-archive';
import { leavingOut, leftOut } from '@aegis/archive/backup/select/leaving-out';
import { readExcludeFile } from '@aegis/archive/backup/select/read-exclude-file';
import { selectionOf } from '@aegis/archive/backup/select/select';
import { type ArchiveJob, type FromWorker, MANIFEST_FILE, type ToWorker } from './archive-job.ts';
import { fileSink, spoolSink } from './spool-sink.ts';

/** The thread that scans, packs and encrypts: one run's whole CPU time and all its file reads, so that commands never wait for them. */

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
const PROGRESS_MS = 1000;

export const archive = async (
  job: ArchiveJob,
  tell: (message: FromWorker) => void,
  onTold: (take: (message: ToWorker) => void) => void,
): Promise<void> => {
  const aborted = new AbortController();
  const spool =
    job.output.kind === 'spool'
      ? spoolSink({ ...job.output, onPart: (part, last) => tell({ type: 'part', part, last }) })
      : null;
  onTold((message) => {
    if (message.type === 'room') return spool?.room();
    aborted.abort();
    spool?.room(); // whoever waits there goes on, and ends
  });
  const manifestFd =
    job.output.kind === 'spool'
      ? openSync(join(job.output.folder, MANIFEST_FILE), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      : job.output.manifest;
  try {
    const sources = job.sources.map((path) => Buffer.from(path, 'utf8'));
    const select = await selectionOf({
      excludes: job.excludes,
      sources,
      readFile: async (path) => readExcludeFile(path),
      env: process.env,
    });
    const left = leftOut(job.leaveOut, job.sources);
    const result = await createArchive({
      sources,
      select: leavingOut(select, left),
      level: job.level,
      recipients: job.recipients,
      archive: spool ?? fileSink((job.output as Extract<ArchiveJob['output'], { kind: 'files' }>).archive),
      manifest: fileSink(manifestFd),
      header: { ...job.header, ...(left.length > 0 ? { left_out: left } : {}) },
      ...(job.maxArchiveBytes === undefined ? {} : { maxArchiveBytes: job.maxArchiveBytes }),
      ...(job.estimate ? { estimate: job.estimate } : {}),
      signal: aborted.signal,
      onProgress: (progress) => tell({ type: 'progress', progress }),
      progressMs: PROGRESS_MS,
      clock: { now: () => Date.now() },
    });
    spool?.end();
    const { archive, manifest, totals, errors } = result;
    const { tarBytes, ...counted } = totals;
    tell({ type: 'done', archived: { archive, manifest, totals: counted, tarBytes, errors } });
  } finally {
    spool?.close();
    if (job.output.kind === 'spool') closeSync(manifestFd);
  }
};
