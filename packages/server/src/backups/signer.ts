import type { SignedRequest, SignRequests } from '@aegis/protocol/backups/node-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { AuditService } from './audit.ts';
import type { Place } from './destinations-repository.ts';
import { attemptIs, isFinal, unknownRun } from './run-refusals.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { S3Store } from './s3/store.ts';
import { type AllowedRequest, allow, keysOf, type SigningFacts } from './signing.ts';
import type { Stores } from './stores.ts';
import type { RunRow, UploadRow } from './tables.ts';
import { lockedUntil } from './uploads.ts';
import type { UploadsRepository } from './uploads-repository.ts';
import { type WrittenCounter, writtenCounter } from './written.ts';

/** Signs requests of nodes to S3, by the rules of signing.ts. The run's row is read for each batch, so that an end counts at once; what
 *  changes seldom, and what was signed so far, stays in memory. */

const KEPT_RUNS = 4096;
/** An attempt begins every few seconds, or somebody means harm. */
const TRIES = 5;

/** Of one attempt of a run. */
interface Known {
  attempt: number;
  place: Place;
  readAt: number;
  uploads: Map<string, { key: string; closed: boolean }>;
  written: WrittenCounter;
}

export const requestSigning = (on: {
  runs: RunsRepository;
  uploads: UploadsRepository;
  stores: Stores;
  placeOf: (run: RunRow) => Promise<Place>;
  /** Whether this node may read the run for a while. */
  isGranted: (runId: string, nodeUid: string) => Promise<boolean>;
  audit: AuditService;
  clock: Clock;
  /** How long a destination and the uploads of an attempt may be taken from memory: another server process may change them. */
  keepMs: number;
}) => {
  const { runs, clock } = on;
  const bornAt = clock.now();
  const known = new Map<string, Known>();
  /** Loads under way, by attempt: its first requests may come all at once. One after the other, so that no count is lost. */
  const loading = new Map<string, { runId: string; stale: boolean; done: Promise<Known> }>();

  /** Of an attempt that began while this process lives there is nothing before its first upload that it has not counted itself. */
  const writtenBefore = (
    place: Place,
    run: RunRow,
    rows: readonly UploadRow[],
  ): Promise<WrittenCounter> | WrittenCounter =>
    rows.length === 0 && run.attempt_started_at >= bornAt
      ? writtenCounter()
      : writtenSoFar(on.stores.of(place), run, rows);
  const load = async (run: RunRow): Promise<Known> => {
    const before = known.get(run.id);
    const [place, rows] = [await on.placeOf(run), await on.uploads.ofAttempt(run.id, run.attempt)];
    const fresh: Known = {
      attempt: run.attempt,
      place,
      readAt: clock.now(),
      uploads: new Map(
        rows
          .filter((row) => row.aborted_at === null)
          .map((row) => [row.upload_id, { key: row.key, closed: row.closed_at !== null }]),
      ),
      written: before?.attempt === run.attempt ? before.written : await writtenBefore(place, run, rows),
    };
    if ((known.get(run.id)?.attempt ?? 0) > run.attempt) return fresh; // the row was read before the next attempt began
    known.delete(run.id);
    known.set(run.id, fresh);
    if (known.size > KEPT_RUNS) known.delete(known.keys().next().value ?? '');
    return fresh;
  };
  const cachedOf = (run: RunRow): Known | undefined => {
    const found = known.get(run.id);
    const isFresh = found?.attempt === run.attempt && Math.abs(clock.now() - found.readAt) < on.keepMs;
    return isFresh ? found : undefined;
  };
  const loaded = (run: RunRow): Promise<Known> => {
    const name = `${run.id}/${run.attempt}`;
    const underWay = loading.get(name);
    if (underWay && !underWay.stale) return underWay.done;
    const before = underWay?.done.catch(() => undefined) ?? Promise.resolve();
    const done = before
      .then(() => load(run))
      .finally(() => {
        if (loading.get(name)?.done === done) loading.delete(name);
      });
    loading.set(name, { runId: run.id, stale: false, done });
    return done;
  };
  /** The run as it is once all is known of it: S3 may have to be asked, and meanwhile it may have ended, or gone on to another attempt. */
  const current = async (first: RunRow, anew: boolean): Promise<{ run: RunRow; state: Known }> => {
    const cached = anew ? undefined : cachedOf(first);
    if (cached) return { run: first, state: cached };
    let asked = first;
    for (let tries = 0; tries < TRIES; tries++) {
      const state = await loaded(asked);
      const run = await runs.byId(first.id);
      if (!run) throw unknownRun(first.id);
      if (run.attempt === asked.attempt) return { run, state };
      asked = run;
    }
    throw attemptIs(asked, first.attempt);
  };

  /** @throws AegisError backups.unknown_run: of another node, and not granted */
  const readable = async (run: RunRow, place: Place, nodeUid: string): Promise<string[]> => {
    if (run.node_uid === nodeUid) {
      const { destination } = place;
      const prefix = destination.kind === 's3' && destination.prefix !== '' ? `${destination.prefix}/` : '';
      return [`${prefix}${nodeUid}/`];
    }
    if (await on.isGranted(run.id, nodeUid)) return [run.prefix];
    throw unknownRun(run.id);
  };
  const factsOf = async (run: RunRow, state: Known, nodeUid: string): Promise<SigningFacts> => {
    const { probe } = state.place;
    return {
      tls: on.stores.of(state.place).tls,
      conditionalWrites: probe?.conditional_writes ?? true,
      readable: await readable(run, state.place, nodeUid),
      writing:
        run.node_uid === nodeUid
          ? {
              prefix: run.prefix,
              encrypted: run.encrypted === 1,
              ended: endedBy(run),
              deadlineAt: run.deadline_at,
              maxBytes: run.max_bytes,
              uploads: state.uploads,
              written: state.written,
            }
          : null,
    };
  };

  /** All of a batch or none, each seen as if those before it were sent. */
  const decide = (requests: SignRequests['requests'], facts: SigningFacts, written: WrittenCounter) => {
    const [batch, now] = [written.fork(), clock.now()];
    const inBatch = { ...facts, writing: facts.writing && { ...facts.writing, written: batch } };
    const allowed: AllowedRequest[] = [];
    for (const [index, wanted] of requests.entries()) {
      const verdict = allow(wanted, inBatch, now);
      if ('refused' in verdict) return { index, reason: verdict.refused };
      allowed.push(verdict.allowed);
      if (verdict.allowed.slot !== null) batch.add(verdict.allowed.slot, verdict.allowed.contentLength ?? 0);
    }
    batch.keep();
    return { allowed };
  };

  return {
    /** @throws AegisError backups.unknown_run, sign_refused, unsupported, destination_failed (no credentials) */
    sign: async (actor: NodeActor, { run_id, requests }: SignRequests): Promise<{ signed: SignedRequest[] }> => {
      const found = await runs.byId(run_id);
      // First: a stranger learns nothing of where the run went, and costs nobody a look at S3.
      if (!found) throw unknownRun(run_id);
      if (found.node_uid !== actor.uid && !(await on.isGranted(found.id, actor.uid))) {
        const reason = 'The run is of another node, and this one was not granted to read it.';
        await on.audit.record({ nodeUid: actor.uid, runId: found.id, action: 'sign', reason, asked: requests[0] });
        throw unknownRun(run_id);
      }
      let { run, state } = await current(found, false);
      if (requests.some(({ query }) => query.uploadId !== undefined && !state.uploads.has(query.uploadId)))
        ({ run, state } = await current(run, true)); // another server process may have opened it
      const facts = await factsOf(run, state, actor.uid);
      const decided = decide(requests, facts, state.written);
      if ('allowed' in decided)
        return {
          signed: await on.stores.of(state.place).sign(decided.allowed, lockedUntil(state.place, clock.now())),
        };
      const { index, reason } = decided;
      await on.audit.record({ nodeUid: actor.uid, runId: run.id, action: 'sign', reason, asked: requests[index] });
      throw new AegisError('backups.sign_refused', `Not signed: ${reason}`, { details: { index } });
    },
    /** Counts from here on, while the attempt has nothing at S3: nobody has to be asked what it has. */
    beginning: (run: RunRow): Promise<unknown> => Promise.resolve(cachedOf(run) ?? loaded(run)),
    /** What is known of a run is read anew at the next request. */
    changed: (runId: string): void => {
      const found = known.get(runId);
      if (found) found.readAt = Number.NEGATIVE_INFINITY;
      for (const underWay of loading.values()) if (underWay.runId === runId) underWay.stale = true;
    },
    forget: (runId: string): void => {
      known.delete(runId);
    },
  };
};
export type RequestSigning = ReturnType<typeof requestSigning>;

const endedBy = (run: RunRow): string | null => {
  if (isFinal(run.state)) return `The run has ended (${run.state}): nothing is written any more.`;
  if (run.removed_at !== null) return 'Retention has removed the run: nothing is written any more.';
  if (run.cancelled_at !== null) return 'The run was cancelled: nothing is written any more.';
  if (run.state === 'lost') return 'The run is taken for lost. Tell of its progress, and it goes on.';
  return null;
};

/** Of an attempt that this process has not signed for yet: what S3 has of it, so that a restart of the server gives no one more room. */
const writtenSoFar = async (store: S3Store, run: RunRow, rows: readonly UploadRow[]): Promise<WrittenCounter> => {
  const written = writtenCounter();
  for (const row of rows) {
    if (row.closed_at !== null) written.add(row.upload_id, row.bytes ?? 0);
    else if (row.aborted_at === null)
      for (const part of (await store.listParts(row.key, row.upload_id)) ?? [])
        written.add(`${row.upload_id}#${part.number}`, part.bytes);
  }
  const uploaded = new Set(rows.filter(({ closed_at }) => closed_at !== null).map(({ key }) => key));
  const own = new Set(keysOf(run.prefix, run.encrypted === 1));
  for await (const { key, bytes } of store.list(run.prefix))
    if (own.has(key) && !uploaded.has(key)) written.add(key, bytes);
  return written;
};
