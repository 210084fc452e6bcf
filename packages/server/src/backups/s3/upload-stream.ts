import type { Readable } from 'node:stream';
import { s3Failure } from './failures.ts';
import type { S3Store } from './store.ts';

/** A stream of any length as one object, by whoever holds the credentials: the server, for backups of its own files. Parts are read ahead
 *  while others are sent, in bounded memory; a stream that fails leaves no object and no upload. */

const MIB = 1024 * 1024;
const PART_BYTES = 16 * MIB;
const PARALLEL = 4;
const MAX_PARTS = 10_000;

/** @param options.atMost bytes that may come: parts are as large as that needs. The memory is four of them, 64 MiB up to 160 GiB.
 *  @throws AegisError backups.destination_failed, destination_full; the stream's own error */
export const uploadStream = async (
  store: S3Store,
  key: string,
  body: Readable,
  options: {
    atMost?: number;
    /** Milliseconds; counts where the destination locks objects. */
    lockedUntil?: number | null;
    onBytes?: (sent: number) => void;
    signal?: AbortSignal;
  } = {},
): Promise<{ bytes: number }> => {
  const { Upload } = await import('@aws-sdk/lib-storage');
  const partSize = Math.max(PART_BYTES, Math.ceil((options.atMost ?? 0) / MAX_PARTS / MIB) * MIB);
  let broken: { error: unknown } | undefined;
  body.once('error', (error) => {
    broken = { error };
  });
  const { client, object } = await store.writer();
  const upload = new Upload({
    client,
    params: { ...object(key, options.lockedUntil ?? null), Body: body },
    partSize,
    queueSize: PARALLEL,
    leavePartsOnError: false,
  });
  upload.on('httpUploadProgress', ({ loaded = 0 }) => options.onBytes?.(loaded));
  const abort = (): void => {
    body.destroy();
    upload.abort().catch(() => undefined); // told by done()
  };
  options.signal?.addEventListener('abort', abort, { once: true });
  try {
    options.signal?.throwIfAborted();
    await upload.done();
  } catch (error) {
    body.destroy();
    options.signal?.throwIfAborted();
    throw broken ? broken.error : s3Failure(error, 'Writing an object', store.destination);
  } finally {
    options.signal?.removeEventListener('abort', abort);
  }
  return { bytes: (await store.head(key))?.bytes ?? 0 };
};
