import { createWriteStream } from 'node:fs';
import { PassThrough, type Writable } from 'node:stream';
import { parentPort, workerData } from 'node:worker_threads';
import type { ByteSink } from '@aegis/archive/backup/bytes';
import { createArchive } from '@aegis/archive/backup/create-archive';
import { selectionOf } from '@aegis/archive/backup/select/select';
import { AegisError } from '@aegis/protocol/errors';
import { s3Store } from '../s3/store.ts';
import { uploadStream } from '../s3/upload-stream.ts';
import type { FromThread, OwnJob } from './job.ts';

/** The thread that packs and stores one archive of the server's own files, and ends with it. */

const PROGRESS_MS = 1000;
const clock = { now: () => Date.now() };
const port = parentPort;
const tell = (message: FromThread): void => port?.postMessage(message);
const aborted = new AbortController();
port?.on('message', () => aborted.abort(new AegisError('backups.cancelled', 'The backup was cancelled.')));

interface Outlet {
  sink: ByteSink;
  /** All was written. */
  end(): Promise<void>;
}

/** @param arrived when everything that was written is where it is to be */
const outlet = (stream: Writable, arrived: Promise<unknown>): Outlet => {
  let failed: { error: unknown } | null = null;
  arrived.catch((error: unknown) => {
    failed = { error };
    stream.destroy();
  });
  const drained = (): Promise<void> =>
    new Promise((resolve) => {
      const go = () => {
        stream.off('drain', go).off('close', go);
        resolve();
      };
      stream.on('drain', go).on('close', go);
    });
  return {
    sink: {
      write: async (bytes) => {
        if (failed) throw failed.error;
        // A copy: it is kept until it was sent.
        if (!stream.write(Buffer.from(bytes))) await drained();
        if (failed) throw (failed as { error: unknown }).error;
      },
    },
    end: async () => {
      stream.end();
      await arrived;
    },
  };
};

const toFile = (path: string): Outlet => {
  const stream = createWriteStream(path, { flags: 'wx', mode: 0o600, flush: true });
  return outlet(
    stream,
    new Promise((resolve, reject) => {
      stream.once('close', () => resolve(undefined));
      stream.once('error', reject);
    }),
  );
};

const work = async (job: OwnJob): Promise<void> => {
  const { output } = job;
  const { signal } = aborted;
  let uploaded = 0;
  const store =
    output.kind === 's3' ? s3Store(output.destination, output.credentials, { clock, bounds: output.bounds }) : null;
  const toS3 = (key: string, atMost: number): Outlet => {
    const stream = new PassThrough({ highWaterMark: 4 * 1024 * 1024 });
    let sent = 0;
    const onBytes = (loaded: number): void => {
      uploaded += loaded - sent;
      sent = loaded;
    };
    const lockedUntil = output.kind === 's3' ? output.lockedUntil : null;
    if (!store) throw new RangeError('no store');
    return outlet(stream, uploadStream(store, key, stream, { atMost, lockedUntil, onBytes, signal }));
  };
  const [archive, manifest] =
    output.kind === 's3'
      ? [toS3(output.archiveKey, job.maxArchiveBytes), toS3(output.manifestKey, 0)]
      : [toFile(output.archive), toFile(output.manifest)];
  const stop = new AegisError('backups.cancelled', 'The archive was not finished.');
  try {
    const sources = job.sources.map((path) => Buffer.from(path, 'utf8'));
    const result = await createArchive({
      sources,
      select: await selectionOf({
        excludes: job.excludes,
        sources,
        readFile: () => Promise.reject(new RangeError('no exclude files')),
        env: {},
      }),
      level: job.level,
      recipients: job.recipients,
      archive: archive.sink,
      manifest: manifest.sink,
      header: job.header,
      maxArchiveBytes: job.maxArchiveBytes,
      signal,
      onProgress: (progress) => tell({ type: 'progress', progress, uploaded }),
      progressMs: PROGRESS_MS,
      clock,
    });
    await archive.end();
    await manifest.end();
    const { tarBytes: _, ...totals } = result.totals;
    tell({ type: 'done', stored: { ...result, totals } });
  } catch (error) {
    if (!signal.aborted) aborted.abort(stop); // uploads that are open end, and leave nothing
    throw error;
  } finally {
    await store?.close();
  }
};

if (port)
  work(workerData as OwnJob)
    .catch((error: unknown) => {
      const code = error instanceof AegisError ? error.code : null;
      tell({ type: 'failed', code, message: error instanceof Error ? error.message : String(error) });
    })
    .finally(() => port.close());
