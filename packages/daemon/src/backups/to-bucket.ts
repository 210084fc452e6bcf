import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { mkdir, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunObject } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Journal } from '../platform/journal/journal.ts';
import { type ArchiveOutput, MANIFEST_FILE, partFile, type SpooledPart } from './archive-job.ts';
import type { Archiving } from './archiver.ts';
import type { Throttle } from './bandwidth.ts';
import { fileBody, sha256Of } from './file-body.ts';
import { partBytes } from './part-sizes.ts';
import type { Archived, BackupsRepository, PartRow, RunRow } from './repository.ts';
import type { RunDoor } from './run-door.ts';
import type { S3Objects } from './s3-objects.ts';

/** One attempt's way into a bucket: parts are uploaded from the spool while the archive still grows; then the manifest, then the statement.
 *  What is uploaded, and under which upload, is in the journal before its part leaves the spool: an attempt that was spooled whole goes on
 *  after any death of this process. */

export interface BucketOptions {
  run: RunRow;
  repository: BackupsRepository;
  journal: Pick<Journal, 'group' | 'lazily'>;
  door: RunDoor;
  objects: S3Objects;
  keys: Readonly<Record<RunObject, string>>;
  /** Of this attempt. */
  folder: string;
  firstPartBytes: number;
  aheadParts: number;
  parallelParts: number;
  throttle: Throttle;
  uploaded(bytes: number): void;
  signal: AbortSignal;
}

/** Where an attempt's archive goes. */
export interface Destination {
  output: ArchiveOutput;
  /** Stores what the thread writes, to the end. Everything but the statement lies there when it resolves. */
  store(archiving: Archiving, parts: PartFeed): Promise<Archived>;
  /** Stores what an earlier life of this process spooled whole. */
  resume(archived: Archived): Promise<Archived>;
  /** The last object: the run is complete with it. */
  finish(statement: Buffer): Promise<void>;
  /** Removes what is only of use to this attempt. */
  clear(): Promise<void>;
}
/** The thread's parts, as they come. */
export interface PartFeed {
  onPart(take: (part: SpooledPart, last: boolean) => void): void;
}

export const toBucket = (options: BucketOptions): Destination => {
  const { run, repository, journal, door, objects, keys, folder, throttle, signal } = options;
  const { conditionalWrites } = run.state;
  const take = (bytes: number): Promise<void> => throttle.take(bytes, signal);
  const counting = { take, counted: options.uploaded };

  const openUpload = async (object: RunObject): Promise<string> => {
    const known = run.state.uploads[object];
    if (known !== undefined) return known;
    const { upload_id: id, key } = await door.openUpload(run.id, run.attempt, object);
    if (key !== keys[object])
      throw new AegisError(
        'backups.run_conflict',
        `The server names ${key} for the ${object} of this run, and named ${keys[object]}: give server and node the same release.`,
      );
    run.state.uploads[object] = id;
    await journal.group('backup-upload', () => repository.putRun(run));
    return id;
  };
  const opened: Partial<Record<RunObject, Promise<string>>> = {};
  const uploadIdOf = (object: RunObject): Promise<string> => {
    const opening = opened[object] ?? openUpload(object);
    opened[object] = opening;
    return opening;
  };
  /** In the journal first, then out of the spool. */
  const uploadPart = async (
    part: PartRow,
    uploadId: string,
    range: { path: string; start: number },
  ): Promise<PartRow> => {
    const body = fileBody({ ...range, bytes: part.bytes }, part.sha256, counting);
    const etag = await objects.putPart(keys[part.object], uploadId, part.number, body);
    const uploaded = { ...part, etag };
    await journal.lazily('backup-part', () => repository.putPart(run.id, uploaded));
    return uploaded;
  };
  type Uploaded = Pick<PartRow, 'number' | 'etag' | 'bytes'>;
  const close = async (object: RunObject, parts: readonly Uploaded[], facts: Archived['archive']): Promise<void> => {
    const listed = [...parts]
      .sort((a, b) => a.number - b.number)
      .map(({ number, etag, bytes }) => ({ number, etag: etag ?? '', bytes }));
    const upload_id = await uploadIdOf(object);
    const { bytes } = await door.closeUpload(run.id, {
      attempt: run.attempt,
      object,
      upload_id,
      parts: listed,
      ...facts,
    });
    if (bytes !== facts.bytes)
      throw new AegisError(
        'backups.upload_mismatch',
        `The ${object} has ${facts.bytes} bytes here and ${bytes} at the destination: it is made again.`,
      );
  };
  const createWhole = (object: 'archive' | 'manifest', path: string, facts: Archived['archive']): Promise<void> =>
    objects.create(
      object,
      keys[object],
      fileBody({ path, start: 0, bytes: facts.bytes }, facts.sha256, counting),
      true,
    );

  /** Uploads parts as they come, some at a time; `end` when no more will. */
  const uploading = (freed: () => void) => {
    const done: PartRow[] = [];
    const waiting: PartRow[] = [];
    let active = 0;
    let ended = false;
    let failure: { error: unknown } | null = null;
    const finished = Promise.withResolvers<PartRow[]>();
    finished.promise.catch(() => undefined);
    const next = (): void => {
      if (failure) return;
      if (ended && active === 0 && waiting.length === 0) finished.resolve(done);
      for (let part = waiting[0]; part && active < options.parallelParts; part = waiting[0]) {
        waiting.shift();
        active++;
        one(part)
          .catch((error: unknown) => {
            failure ??= { error };
            finished.reject(error);
          })
          .finally(() => {
            active--;
            next();
          });
      }
    };
    const one = async (part: PartRow): Promise<void> => {
      const path = join(folder, partFile(part.number));
      done.push(await uploadPart(part, await uploadIdOf('archive'), { path, start: 0 }));
      await unlink(path);
      freed();
    };
    return {
      add: (part: PartRow): void => {
        waiting.push(part);
        next();
      },
      done,
      end: (): Promise<PartRow[]> => {
        ended = true;
        next();
        return finished.promise;
      },
      failed: finished.promise,
    };
  };

  const archivedNow = async (archived: Archived, parts: readonly PartRow[]): Promise<void> => {
    run.stage = 'archived';
    run.state.archived = archived;
    await journal.group('backup-archived', () => {
      for (const part of parts) repository.putPart(run.id, part);
      repository.putRun(run);
    });
  };

  const storeManifest = async ({ manifest }: Archived): Promise<void> => {
    const path = join(folder, MANIFEST_FILE);
    const { size } = statSync(path);
    if (size !== manifest.bytes) throw spoiled(path);
    if (conditionalWrites && manifest.bytes <= options.firstPartBytes) return createWhole('manifest', path, manifest);
    const uploadId = await uploadIdOf('manifest');
    const parts: PartRow[] = [];
    const known = new Map(
      repository
        .parts(run.id)
        .filter(({ object }) => object === 'manifest')
        .map((part) => [part.number, part]),
    );
    for (let start = 0, number = 1; start < manifest.bytes; number++) {
      const bytes = Math.min(partBytes(options.firstPartBytes, number), manifest.bytes - start);
      const sha256 = await sha256Of({ path, start, bytes });
      const before = known.get(number);
      parts.push(
        before?.etag && before.sha256 === sha256
          ? before
          : await uploadPart({ object: 'manifest', number, bytes, sha256, etag: null }, uploadId, { path, start }),
      );
      start += bytes;
    }
    await close('manifest', parts, manifest);
  };

  return {
    output: { kind: 'spool', folder, firstPartBytes: options.firstPartBytes, aheadParts: options.aheadParts },
    store: async (archiving, feed) => {
      const uploads = uploading(archiving.room);
      const spooled: PartRow[] = [];
      let only = false;
      feed.onPart(({ number, bytes, sha256 }, last) => {
        const part: PartRow = { object: 'archive', number, bytes, sha256, etag: null };
        spooled.push(part);
        only = last && number === 1 && conditionalWrites;
        if (!only) uploads.add(part);
      });
      // An upload that fails ends the packing: nobody waits for hours to hear of it.
      const archived = await Promise.race([archiving.done, uploads.failed.then(() => archiving.done)]);
      const uploaded = new Map(uploads.done.map((part) => [part.number, part]));
      await archivedNow(
        archived,
        spooled.map((part) => uploaded.get(part.number) ?? part),
      );
      if (only) await createWhole('archive', join(folder, partFile(1)), archived.archive);
      else await close('archive', await uploads.end(), archived.archive);
      await storeManifest(archived);
      return archived;
    },
    resume: async (archived) => {
      const parts = repository.parts(run.id).filter(({ object }) => object === 'archive');
      const missing = parts.filter(({ etag }) => etag === null);
      const whole = parts.reduce((sum, { bytes }) => sum + bytes, 0) === archived.archive.bytes;
      for (const { number, bytes } of missing) {
        const path = join(folder, partFile(number));
        if (!whole || !existsSync(path) || statSync(path).size !== bytes) throw spoiled(path);
      }
      if (!existsSync(join(folder, MANIFEST_FILE))) throw spoiled(join(folder, MANIFEST_FILE));
      for (const part of parts) if (part.etag !== null) options.uploaded(part.bytes);
      if (parts.length === 1 && conditionalWrites && run.state.uploads.archive === undefined)
        await createWhole('archive', join(folder, partFile(1)), archived.archive);
      else {
        const uploads = uploading(() => undefined);
        for (const part of missing) uploads.add(part);
        const uploaded = await uploads.end();
        await close('archive', [...parts.filter(({ etag }) => etag !== null), ...uploaded], archived.archive);
      }
      await storeManifest(archived);
      return archived;
    },
    finish: async (statement) => {
      const sha256 = createHash('sha256').update(statement).digest('hex');
      const bytes = statement.length;
      const body = {
        bytes,
        sha256,
        async *read() {
          yield statement;
        },
      };
      if (conditionalWrites) return objects.create('statement', keys.statement, body, true);
      const etag = await objects.putPart(keys.statement, await uploadIdOf('statement'), 1, body);
      await close('statement', [{ number: 1, etag, bytes }], { bytes, sha256 });
    },
    clear: () => rm(folder, { recursive: true, force: true }),
  };
};

/** Makes the folder of an attempt, or empties it: what lies there is of no attempt that goes on. */
export const freshFolder = async (folder: string): Promise<void> => {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
};

const spoiled = (path: string): AegisError =>
  new AegisError(
    'backups.lost',
    `What was to be uploaded is not in the spool any more (${path}): the archive is made again.`,
  );
