import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../../platform/clock.ts';
import type { S3Store } from '../s3/store.ts';
import type { UploadRow } from '../tables.ts';
import type { UploadsRepository } from '../uploads-repository.ts';

/** An agent's archive by a link for one plain PUT: of the only part of an upload that the server opens and completes. A link for the object
 *  itself could be used again after the end, and at servers that heed headers which nobody signed (radosgw 16.2) for a copy of another
 *  node's archive that anyone may read (x-amz-copy-source with x-amz-acl). A part has no access list, and ends with its upload. */

const PART = 1;
const OBJECT = 'archive';

export const linkUploads = (on: { uploads: UploadsRepository; clock: Clock }) => ({
  open: async (
    store: S3Store,
    runId: string,
    key: string,
    expiresSec: number,
  ): Promise<{ row: UploadRow; url: string }> => {
    const upload_id = await store.createUpload(key);
    const query = [
      ['partNumber', String(PART)],
      ['uploadId', upload_id],
    ] as const;
    const row = { run_id: runId, attempt: 1, object: OBJECT, upload_id, key, opened_at: on.clock.now() } as const;
    return {
      row: { ...row, closed_at: null, bytes: null, sha256: null, aborted_at: null },
      url: (await store.presign('PUT', key, expiresSec, query)).url,
    };
  },
  /** Makes the object of what arrived, if it did; where that was done before, nothing. @throws AegisError backups.limit */
  complete: async (store: S3Store, runId: string, maxBytes: number): Promise<void> => {
    const row = await on.uploads.one(runId, 1, OBJECT);
    if (!row || row.closed_at !== null || row.aborted_at !== null) return;
    const parts = await store.listParts(row.key, row.upload_id);
    if (parts === null) return; // the answer of a completion was lost; the object tells
    const [part] = parts;
    if (part === undefined) return;
    if (part.bytes > maxBytes)
      throw new AegisError(
        'backups.limit',
        `The archive has ${part.bytes} bytes; the run may write ${maxBytes}. Exclude something, or raise limits.archive_bytes.`,
      );
    await store.completeUpload(row.key, row.upload_id, parts);
    await on.uploads.setClosed(row, { at: on.clock.now(), bytes: part.bytes, sha256: null });
  },
});
export type LinkUploads = ReturnType<typeof linkUploads>;
