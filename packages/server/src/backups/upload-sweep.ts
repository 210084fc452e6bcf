import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { DestinationsRepository, Place } from './destinations-repository.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { Stores } from './stores.ts';
import type { RunRow } from './tables.ts';
import type { UploadsService } from './uploads.ts';
import type { UploadsRepository } from './uploads-repository.ts';

/** Aborts multipart uploads that belong to no attempt under way: those whose abortion failed, and those that S3 has and no row, because
 *  the server died between the two. Parts of such uploads cost room that no listing of objects shows. */

export const uploadSweep = (on: {
  runs: RunsRepository;
  uploads: UploadsRepository;
  service: UploadsService;
  destinations: DestinationsRepository;
  stores: Stores;
  clock: Clock;
  /** A younger one may be about to get its row. */
  olderThanMs: number;
  log: Log;
}) => {
  /** Other fleets, and other programs, may use the same bucket: only keys of a configuration that wrote there are ours. */
  const sweepPlace = async (place: Place): Promise<number> => {
    const { destination } = place;
    if (destination.kind !== 's3') return 0;
    const store = on.stores.of(place);
    const prefix = destination.prefix === '' ? '' : `${destination.prefix}/`;
    let aborted = 0;
    for await (const { key, uploadId, initiatedAt } of store.listUploads(prefix)) {
      const at = attemptOf(key, prefix);
      if (at === null || at.configId !== place.configId) continue;
      if (initiatedAt > on.clock.now() - on.olderThanMs) continue;
      const run = await on.runs.byId(at.runId);
      if (run && mayGoOn(run, on.clock.now())) {
        // These may open uploads themselves.
        if (run.cause === 'agent' || run.node_uid === null) continue;
        const rows = await on.uploads.ofAttempt(at.runId, run.attempt);
        if (rows.some((row) => row.upload_id === uploadId && row.aborted_at === null)) continue;
      }
      // It may have been completed since it was listed, and some servers remove the object of an upload that is aborted then.
      if ((await store.listParts(key, uploadId)) === null) continue;
      await store.abortUpload(key, uploadId);
      aborted++;
    }
    return aborted;
  };

  return async (): Promise<number> => {
    let aborted = await on.service.abortLeftOpen();
    for (const place of await on.destinations.all()) {
      try {
        aborted += await sweepPlace(place);
      } catch (err) {
        if (!(err instanceof AegisError)) throw err;
        on.log.warn({ destination_id: place.id, err }, 'multipart uploads at a destination could not be swept');
      }
    }
    return aborted;
  };
};

/** Whether it may still be written to. */
const mayGoOn = ({ state, removed_at, deadline_at }: RunRow, now: number): boolean =>
  removed_at === null && (state === 'running' || (state === 'lost' && now < deadline_at));

/** `<prefix><node uid, or 'server'>/<config>/<run>/<attempt>/<object>`, as the server makes keys. */
const attemptOf = (key: string, prefix: string): { configId: string; runId: string } | null => {
  if (!key.startsWith(prefix)) return null;
  const [node = '', configId = '', runId = '', attempt = '', object, ...more] = key.slice(prefix.length).split('/');
  const isOurs = (isUuid(node) || node === 'server') && isUuid(configId) && isUuid(runId) && /^\d{1,4}$/.test(attempt);
  return isOurs && object !== undefined && more.length === 0 ? { configId, runId } : null;
};

export const uploadSweepLoop = (sweep: () => Promise<number>, everyMs: number, signal: AbortSignal, log: Log): void =>
  loop({
    name: 'backups.upload-sweep',
    everyMs,
    turn: async () => {
      const aborted = await sweep();
      if (aborted > 0) log.info({ aborted }, 'multipart uploads that no run needs any more were aborted');
    },
    signal,
    log,
  });
