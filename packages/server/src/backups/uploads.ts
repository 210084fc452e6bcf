import { createHash } from 'node:crypto';
import type { CloseUpload } from '@aegis/protocol/backups/node-endpoints';
import { objectNames, type RunObject } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Log } from '../platform/log.ts';
import { type OneAtATime, oneAtATime } from '../platform/one-at-a-time.ts';
import type { AuditService } from './audit.ts';
import type { Place } from './destinations-repository.ts';
import { attemptIs, ended, isOver, unknownRun } from './run-refusals.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { S3Store, StoredPart } from './s3/store.ts';
import type { Stores } from './stores.ts';
import type { RunRow, UploadRow } from './tables.ts';
import type { UploadsRepository } from './uploads-repository.ts';

/** Multipart uploads of runs: opened, completed and aborted by the server alone, whatever a node says. A node that asks again gets the
 *  first answer, also when the server died in between. */

const MIN_PART_BYTES = 5 * 1024 * 1024;
const DAY_MS = 86_400_000;

export const uploadsService = (on: {
  runs: RunsRepository;
  uploads: UploadsRepository;
  stores: Stores;
  placeOf: (run: RunRow) => Promise<Place>;
  audit: AuditService;
  /** The attempt is about to have its first upload. */
  beginning: (run: RunRow) => Promise<unknown>;
  /** What may be signed for the attempt has changed. */
  changed: (runId: string) => void;
  clock: Clock;
  log: Log;
}) => {
  const { runs, uploads, clock } = on;
  /** What is done to the uploads of one run, one after the other. */
  const turns = new Map<string, { inTurn: OneAtATime; waiting: number }>();
  const inTurn = async <T>(runId: string, work: () => Promise<T>): Promise<T> => {
    const turn = turns.get(runId) ?? { inTurn: oneAtATime(), waiting: 0 };
    turns.set(runId, turn);
    turn.waiting++;
    try {
      return await turn.inTurn(work);
    } finally {
      if (--turn.waiting === 0) turns.delete(runId);
    }
  };

  /** @throws AegisError backups.unknown_run, run_ended, run_conflict, cancelled */
  const mayUpload = (run: RunRow | undefined, nodeUid: string, runId: string, attempt: number): RunRow => {
    if (!run || run.node_uid !== nodeUid) throw unknownRun(runId);
    if (isOver(run)) throw ended(run);
    if (run.attempt !== attempt) throw attemptIs(run, attempt);
    if (run.cancelled_at !== null)
      throw new AegisError('backups.cancelled', `The run ${run.id} was cancelled: end it with that.`);
    return run;
  };
  const refused = async (actor: NodeActor, run: RunRow, asked: unknown, error: AegisError): Promise<never> => {
    await on.audit.record({ nodeUid: actor.uid, runId: run.id, action: 'upload', reason: error.message, asked });
    throw error;
  };

  const openAnew = async (run: RunRow, object: RunObject, before: UploadRow | undefined): Promise<UploadRow> => {
    await on.beginning(run);
    const place = await on.placeOf(run);
    const store = on.stores.of(place);
    const key = `${run.prefix}${objectNames(run.encrypted === 1)[object]}`;
    const upload_id = await store.createUpload(key, lockedUntil(place, clock.now()));
    const row: UploadRow = {
      run_id: run.id,
      attempt: run.attempt,
      object,
      upload_id,
      key,
      opened_at: clock.now(),
      closed_at: null,
      bytes: null,
      sha256: null,
      aborted_at: null,
    };
    const stands = await runs
      .write('backups.upload-opened', async (tx) => {
        // It may have ended, or gone on to another attempt, while S3 was asked.
        mayUpload(await runs.lock(tx, run.id), run.node_uid ?? '', run.id, run.attempt);
        if (before) await uploads.reopen(tx, row);
        return uploads.insert(tx, row);
      })
      .catch(async (error: unknown) => {
        await store.abortUpload(key, upload_id).catch((err: unknown) => leftToSweep(err));
        throw error;
      });
    if (stands.upload_id !== upload_id)
      await store.abortUpload(key, upload_id).catch((err: unknown) => leftToSweep(err));
    return stands;
  };
  const leftToSweep = (err: unknown): void => {
    on.log.info({ err }, 'a multipart upload that nobody needs was not aborted: the sweep will do it');
  };

  /** @throws AegisError backups.upload_mismatch */
  const checkParts = (body: CloseUpload, stored: readonly StoredPart[]): StoredPart[] => {
    const byNumber = new Map(stored.map((part) => [part.number, part]));
    if (body.parts.some(({ number }, at) => number <= (body.parts[at - 1]?.number ?? 0)))
      throw mismatch('The parts are not in the order of their numbers, each once. Sort them.');
    let bytes = 0;
    const parts = body.parts.map((told, at) => {
      const part = byNumber.get(told.number);
      if (part === undefined) throw mismatch(`Part ${told.number} has not arrived. Send it again.`);
      if (part.bytes !== told.bytes)
        throw mismatch(`Part ${told.number} has ${part.bytes} bytes at S3 and ${told.bytes} here. Send it again.`);
      if (bare(part.etag) !== bare(told.etag))
        throw mismatch(`Part ${told.number} has another ETag at S3 than it had when it was sent. Send it again.`);
      if (part.bytes < MIN_PART_BYTES && at < body.parts.length - 1)
        throw mismatch(
          `Part ${told.number} is smaller than 5 MiB, which only the last one may be. Start another attempt.`,
        );
      bytes += part.bytes;
      return part;
    });
    // Amazon leaves it away, others complete nothing then.
    const named = new Set(body.parts.map(({ number }) => number));
    const more = stored.find(({ number }) => !named.has(number));
    if (more !== undefined)
      throw mismatch(`S3 has a part ${more.number} that is not named. Name every part, or start another attempt.`);
    if (bytes !== body.bytes)
      throw mismatch(`The parts have ${bytes} bytes together, the object is said to have ${body.bytes}.`);
    return parts;
  };
  /** Of an upload that is not there any more: whether it was completed, by this server before it died or by a call whose answer was lost.
   *  Nobody but the server completes uploads, and the key belongs to this attempt alone. */
  const isCompleted = async (store: S3Store, key: string, body: CloseUpload): Promise<boolean> => {
    const object = await store.head(key);
    if (object === null || object.bytes !== body.bytes) return false;
    const etag = bare(object.etag);
    return (
      etag === etagOf(body.parts.map((part) => part.etag)) || (isOpaque(body) && etag.endsWith(`-${body.parts.length}`))
    );
  };

  const complete = async (actor: NodeActor, run: RunRow, row: UploadRow, body: CloseUpload): Promise<void> => {
    const store = on.stores.of(await on.placeOf(run));
    const stored = await store.listParts(row.key, row.upload_id);
    if (stored === null) {
      if (!(await isCompleted(store, row.key, body)))
        throw mismatch('The upload is not there any more, and no object of its size. Start another attempt.');
      return;
    }
    const parts = checkParts(body, stored);
    if (body.bytes > run.max_bytes) {
      await store.abortUpload(row.key, row.upload_id);
      await uploads.setAborted(row, clock.now());
      on.changed(run.id);
      await refused(
        actor,
        run,
        { object: body.object, bytes: body.bytes },
        new AegisError('backups.limit', `The object has ${body.bytes} bytes; the run may write ${run.max_bytes}.`),
      );
    }
    // Some servers complete over an object that is there.
    if ((await store.head(row.key)) !== null && !(await isCompleted(store, row.key, body)))
      throw mismatch('There is another object under this key already. Start another attempt.');
    if (!(await store.completeUpload(row.key, row.upload_id, parts)) && !(await isCompleted(store, row.key, body)))
      throw mismatch('The upload went away while it was completed. Start another attempt.');
    const object = await store.head(row.key);
    if (object?.bytes !== body.bytes)
      throw mismatch(
        `The object has ${object === null ? 'not appeared' : `${object.bytes} bytes`} after it was completed, not ${body.bytes} bytes. Start another attempt.`,
      );
  };

  const abortRow = async (run: RunRow, row: UploadRow): Promise<void> => {
    const store = on.stores.of(await on.placeOf(run));
    // Some servers remove the object when an upload that was completed is aborted.
    if ((await store.listParts(row.key, row.upload_id)) !== null) await store.abortUpload(row.key, row.upload_id);
    await uploads.setAborted(row, clock.now());
  };

  return {
    /** @throws AegisError backups.unknown_run, run_ended, run_conflict, cancelled, unsupported, destination_failed */
    open: (
      actor: NodeActor,
      runId: string,
      { attempt, object }: { attempt: number; object: RunObject },
    ): Promise<{ upload_id: string; key: string }> =>
      inTurn(runId, async () => {
        const run = mayUpload(await runs.byId(runId), actor.uid, runId, attempt);
        const before = await uploads.one(runId, attempt, object);
        const row = before && before.aborted_at === null ? before : await openAnew(run, object, before);
        on.changed(runId);
        return { upload_id: row.upload_id, key: row.key };
      }),
    /** @throws AegisError backups.unknown_run, run_ended, run_conflict, upload_mismatch, limit, destination_failed */
    close: (actor: NodeActor, runId: string, body: CloseUpload): Promise<{ key: string; bytes: number }> =>
      inTurn(runId, async () => {
        const run = mayUpload(await runs.byId(runId), actor.uid, runId, body.attempt);
        const row = await uploads.one(runId, body.attempt, body.object);
        if (!row || row.upload_id !== body.upload_id)
          return refused(
            actor,
            run,
            { object: body.object, upload_id: body.upload_id },
            mismatch('The upload is none that the server opened for this object of the attempt.'),
          );
        if (row.aborted_at !== null)
          throw mismatch('The upload was aborted. Open another one, and send the parts again.');
        if (row.closed_at !== null) {
          if (row.bytes !== body.bytes || row.sha256 !== body.sha256)
            throw mismatch(`The object was completed with ${row.bytes} bytes and another hash. Start another attempt.`);
          return { key: row.key, bytes: body.bytes };
        }
        await complete(actor, run, row, body);
        await uploads.setClosed(row, { at: clock.now(), bytes: body.bytes, sha256: body.sha256 });
        on.changed(runId);
        return { key: row.key, bytes: body.bytes };
      }),
    /** Aborts what the attempt, and those before it, left open. What S3 does not take now, the sweep does. */
    attemptOver: (run: RunRow, attempt: number): Promise<void> =>
      inTurn(run.id, async () => {
        on.changed(run.id);
        for (const row of await uploads.openUpTo(run.id, attempt)) await abortRow(run, row);
      }).catch(leftToSweep),
    /** For the sweep: rows of attempts that are over. @returns how many */
    abortLeftOpen: async (): Promise<number> => {
      let aborted = 0;
      for (const row of await uploads.leftOpen(clock.now(), 1000)) {
        const run = await runs.byId(row.run_id);
        if (!run) continue;
        try {
          await inTurn(run.id, () => abortRow(run, row));
          aborted++;
        } catch (err) {
          leftToSweep(err);
        }
      }
      return aborted;
    },
  };
};
export type UploadsService = ReturnType<typeof uploadsService>;

export const lockedUntil = ({ destination }: Place, now: number): number | null =>
  destination.kind === 's3' && destination.object_lock_days !== undefined
    ? now + destination.object_lock_days * DAY_MS
    : null;

const mismatch = (sentence: string): AegisError => new AegisError('backups.upload_mismatch', sentence);

const bare = (etag: string): string => etag.replaceAll('"', '').toLowerCase();
/** S3's ETag of an object of several parts: the MD5 of their MD5s, and their number. */
export const etagOf = (parts: readonly string[]): string => {
  const hash = createHash('md5');
  for (const part of parts) hash.update(bare(part), 'hex');
  return `${hash.digest('hex')}-${parts.length}`;
};
/** Where objects are encrypted with keys of the provider, ETags are no MD5s, and only the number of parts can be compared. */
const isOpaque = ({ parts }: CloseUpload): boolean => parts.some(({ etag }) => !/^[0-9a-f]{32}$/.test(bare(etag)));
