import { createHash } from 'node:crypto';
import { statementBytes } from '@aegis/archive/backup/statement';
import type { endRun } from '@aegis/protocol/backups/node-endpoints';
import { isGood, type RunEnd, type RunObject } from '@aegis/protocol/backups/run';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { AfterEnd } from './after-end.ts';
import type { AuditService } from './audit.ts';
import type { Place } from './destinations-repository.ts';
import type { NodeDoor } from './node-door.ts';
import type { RunAccess } from './run-access.ts';
import { attemptIs, ended, isFinal, isOver, unknownRun } from './run-refusals.ts';
import type { RunsRepository } from './runs-repository.ts';
import { checkStatement } from './statement-check.ts';
import type { RunRow } from './tables.ts';

/** How a run ended, by the word of its node. A good end has to be proven: by a statement that the node's key signed about this very attempt,
 *  and by objects that lie at the destination as the statement says. */

type Answer = ResponseOf<typeof endRun>;
const DAY_MS = 86_400_000;
const ERROR_CHARS = 32 * 1024;

/** Of what retention removes from folders that only the node can reach. Asked for the same run again, the same again. */
export type ForgetFor = (nodeUid: string, runId: string) => Promise<Answer['forget']>;

export const runEndService = (on: {
  runs: RunsRepository;
  access: RunAccess;
  nodes: NodeDoor;
  audit: AuditService;
  placeOfRun: (run: RunRow) => Promise<Place>;
  forgetFor: ForgetFor;
  after: AfterEnd;
  clock: Clock;
}) => {
  const { runs } = on;

  /** @throws AegisError backups.bad_statement, backups.upload_mismatch */
  const prove = async (run: RunRow, place: Place, end: RunEnd): Promise<void> => {
    if (!isGood(end.state) || end.statement === null) return;
    const keys = run.node_uid === null ? null : await on.nodes.keysOf(run.node_uid);
    if (!keys?.publicKey || run.node_key === null)
      throw new AegisError('backups.bad_statement', 'This node has no key that could have signed the statement.');
    const stated = checkStatement(end, run, { keyId: run.node_key, publicKey: keys.publicKey });
    const statement = statementBytes(end.statement);
    const objects = new Map<RunObject, { bytes: number; content?: Buffer }>([
      ['archive', { bytes: stated.archive.bytes }],
      ['manifest', { bytes: stated.manifest.bytes }],
      ['statement', { bytes: statement.length, content: statement }],
    ]);
    const fault = await on.access.check(run, place, objects);
    if (fault !== null) throw new AegisError('backups.upload_mismatch', fault);
  };
  const recordRefusal = (actor: NodeActor, run: RunRow, end: RunEnd, error: AegisError): Promise<void> =>
    on.audit.record({
      nodeUid: actor.uid,
      runId: run.id,
      action: 'end',
      reason: error.message,
      asked: { state: end.state, attempt: end.attempt, archive_bytes: end.archive_bytes },
    });
  /** @throws AegisError backups.unknown_run, run_ended, run_conflict @returns false: it ended so already */
  const mayEnd = (
    run: RunRow | undefined,
    actor: NodeActor,
    runId: string,
    end: RunEnd,
    digest: string,
  ): run is RunRow => {
    if (!run || run.node_uid !== actor.uid) throw unknownRun(runId);
    if (isFinal(run.state) && run.end_sha256 === digest) return false;
    if (isOver(run)) throw ended(run);
    if (end.attempt !== run.attempt) throw attemptIs(run, end.attempt);
    return true;
  };

  return async (actor: NodeActor, runId: string, end: RunEnd): Promise<Answer> => {
    const digest = createHash('sha256').update(JSON.stringify(end)).digest('hex');
    const before = await runs.ofNode(actor.uid, runId);
    const stored = mayEnd(before, actor, runId, end, digest);
    if (stored) {
      const place = await on.placeOfRun(before);
      try {
        await prove(before, place, end);
      } catch (error) {
        if (error instanceof AegisError) await recordRefusal(actor, before, end, error);
        throw error;
      }
      const run = await runs.write('backups.end', async (tx) => {
        const locked = await runs.lock(tx, runId);
        if (!mayEnd(locked, actor, runId, end, digest)) return null; // the same end came twice at once
        const change = endedAs(place, end, digest, on.clock.now());
        await runs.update(tx, runId, change);
        await on.after.inTransaction(tx, { ...locked, ...change });
        return { ...locked, ...change };
      });
      if (!isGood(end.state)) on.access.attemptOver(before, end.attempt);
      if (run) on.after.afterwards(run);
    }
    return { stored, forget: await on.forgetFor(actor.uid, runId) };
  };
};
export type RunEndService = ReturnType<typeof runEndService>;

const endedAs = (place: Place, end: RunEnd, digest: string, now: number) => ({
  state: end.state,
  heard_at: now,
  silent_since: null,
  finished_at: now,
  archive_bytes: end.archive_bytes,
  uploaded_bytes: end.uploaded_bytes,
  end_sha256: digest,
  progress: null,
  totals: end.totals && JSON.stringify(end.totals),
  reason: end.reason && JSON.stringify({ ...end.reason, message: storable(end.reason.message) }),
  errors: errorsText(end),
  statement: end.statement && JSON.stringify(end.statement),
  // The lock of each object began when it was written: this is a little later, and never too early.
  locked_until: isGood(end.state) && lockDays(place) > 0 ? now + lockDays(place) * DAY_MS : null,
});
const lockDays = ({ destination }: Place): number =>
  destination.kind === 's3' ? (destination.object_lock_days ?? 0) : 0;

/** Those that fit; the manifest has them all, and the totals their number. */
const errorsText = ({ errors }: RunEnd): string => {
  let chars = 0;
  const texts = errors.map(({ path, code, message }) =>
    JSON.stringify({ path: storable(path), code: storable(code), message: storable(message) }),
  );
  const fitting = texts.filter((text) => {
    chars += text.length;
    return chars <= ERROR_CHARS;
  });
  return `[${fitting.join(',')}]`;
};
/** As any database takes it: names of files, and so not a reason to refuse the report. */
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
