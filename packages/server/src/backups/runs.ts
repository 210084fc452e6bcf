import type { BackupSpec } from '@aegis/protocol/backups/config';
import type { RunGrant, StartRun } from '@aegis/protocol/backups/node-endpoints';
import type { RunProgress } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Tell } from '../platform/told.ts';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import { specOf } from './config-views.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { DestinationsRepository, Place } from './destinations-repository.ts';
import { type Line, type LogService, refuseLongMetadata } from './log.ts';
import type { NodeDoor } from './node-door.ts';
import type { RunAccess } from './run-access.ts';
import { attemptIs, ended, isOver, takenRun, unknownRun } from './run-refusals.ts';
import { prefixOf } from './run-views.ts';
import type { RunsPruning } from './runs-pruning.ts';
import type { ProgressRow, RunsRepository } from './runs-repository.ts';
import type { ConfigRow, RunRow } from './tables.ts';
import { runTold } from './told.ts';

/** A node's word of its runs up to their end: start, further attempts, progress, log. A `lost` run is taken up again by any of them. */

/** For retries of the last requests, and clocks. */
const AFTER_DEADLINE_MS = 15 * 60_000;
/** Beside the archive: manifest and statement. */
const BESIDE_BYTES = 1024 ** 3;
const MAX_ARCHIVE_BYTES = 5 * 1024 ** 4;

type Answer = { cancelled: boolean } | { refused: AegisError };
/** Who makes a run: a node, an agent without a key, or (without a uid) the server itself. */
export type Runner = Pick<NodeActor, 'name' | 'keyId'> & { uid: string | null };
interface Told {
  uid: string;
  runId: string;
  progress: RunProgress;
}

export const runsService = (on: {
  runs: RunsRepository;
  configs: ConfigsRepository;
  destinations: DestinationsRepository;
  assignments: AssignmentsRepository;
  access: RunAccess;
  pruning: RunsPruning;
  log: LogService;
  nodes: NodeDoor;
  tell: Tell;
  clock: Clock;
  maxUnderWayPerNode: number;
}) => {
  const { runs, clock } = on;

  /** What a run, or an attempt of one, takes from its configuration as it is now. */
  const termsOf = (spec: BackupSpec, config: ConfigRow, uid: string | null, request: StartRun) => ({
    generation: request.generation,
    attempt: request.attempt,
    destination_id: config.destination_id,
    prefix: prefixOf(spec.destination, {
      nodeUid: uid,
      configId: config.id,
      runId: request.run_id,
      attempt: request.attempt,
    }),
    encrypted: spec.encryption.recipients.length > 0 ? 1 : 0,
    max_bytes: (spec.limits.archive_bytes ?? MAX_ARCHIVE_BYTES) + BESIDE_BYTES,
    tags: JSON.stringify(spec.tags),
  });
  const firstAttempt = (actor: Runner, config: ConfigRow, request: StartRun, now: number): RunRow => {
    const spec = specOf(config);
    return {
      id: request.run_id,
      config_id: config.id,
      config_name: config.name,
      node_uid: actor.uid,
      node_name: actor.name,
      node_key: actor.keyId,
      cause: request.trigger,
      scheduled_at: request.scheduled_at === undefined ? null : Date.parse(request.scheduled_at),
      state: 'running',
      started_at: now,
      attempt_started_at: now,
      heard_at: now,
      silent_since: null,
      deadline_at: now + spec.limits.run_sec * 1000 + AFTER_DEADLINE_MS,
      finished_at: null,
      cancelled_at: null,
      cancelled_by: null,
      archive_bytes: 0,
      uploaded_bytes: 0,
      locked_until: null,
      removed_at: null,
      logged: 0,
      end_sha256: null,
      progress: null,
      totals: null,
      reason: null,
      verified: null,
      errors: '[]',
      statement: null,
      ...termsOf(spec, config, actor.uid, request),
    };
  };
  const anew = (now: number) => ({
    state: 'running' as const,
    heard_at: now,
    silent_since: null,
    finished_at: null,
    reason: null,
  });

  /** The configuration under which the node may begin now.
   *  @throws AegisError backups.not_assigned, stale_generation, generation_conflict */
  const termsFor = async (uid: string, request: StartRun): Promise<ConfigRow> => {
    const [assignment, config] = [
      await on.assignments.one(uid, request.config_id),
      await on.configs.byId(request.config_id),
    ];
    if (!config || assignment?.present !== 1) throw notAssigned(request.config_id);
    if (request.generation < assignment.generation)
      throw new AegisError(
        'backups.stale_generation',
        `'${config.name}' is in generation ${assignment.generation} by now, this run would be of ${request.generation}. Fetch the desired state first.`,
        { details: { generation: assignment.generation } },
      );
    if (request.generation > assignment.generation)
      throw new AegisError(
        'backups.generation_conflict',
        `'${config.name}' is in generation ${assignment.generation} here, this run would be of ${request.generation}, which this server never issued.`,
        { details: { generation: assignment.generation } },
      );
    return config;
  };

  const begin = async (tx: Tx, actor: Runner, config: ConfigRow, request: StartRun): Promise<RunRow> => {
    if ((await runs.countUnderWayIn(tx, actor.uid)) >= on.maxUnderWayPerNode)
      throw new AegisError(
        'backups.busy',
        `'${actor.name}' has ${on.maxUnderWayPerNode} runs under way, as many as one node may (backups.max_running_per_node). End one first.`,
      );
    await on.pruning.makeRoom(tx, config, actor.uid);
    const row = firstAttempt(actor, config, request, clock.now());
    if (!(await runs.insert(tx, row))) throw takenRun(request.run_id);
    await on.tell(tx, [runTold(row)]);
    return row;
  };
  /** Another attempt closes the former. */
  const advance = async (tx: Tx, actor: NodeActor, run: RunRow, config: ConfigRow, request: StartRun) => {
    const now = clock.now();
    const change = {
      ...anew(now),
      ...termsOf(specOf(config), config, actor.uid, request),
      attempt_started_at: now,
      progress: null,
      archive_bytes: 0,
      uploaded_bytes: 0,
    };
    await runs.update(tx, run.id, change);
    await on.tell(tx, [runTold({ ...run, ...change })]);
    return { ...run, ...change };
  };

  const grantOf = async (run: RunRow, sealingKey: Buffer | null): Promise<RunGrant> => {
    const place = await placeOfRun(run);
    const access = await on.access.grant(run, place, { uid: run.node_uid ?? '', sealingKey });
    return {
      run_id: run.id,
      attempt: run.attempt,
      started_at: isoTime(run.started_at),
      prefix: run.prefix,
      max_bytes: run.max_bytes,
      ...access,
      cancelled: run.cancelled_at !== null,
    };
  };
  const placeOfRun = async ({ destination_id }: RunRow): Promise<Place> => {
    const place = await on.destinations.byId(destination_id);
    if (!place) throw new AegisError('http.internal', 'The destination of a run is not there.');
    return place;
  };

  const tell = runs.writeTogether<Told, Answer>('backups.progress', async (tx, told) => {
    const found = await runs.lockMany(tx, [...new Set(told.map(({ runId }) => runId))].sort());
    const rows = new Map<string, ProgressRow>();
    const back: RunRow[] = [];
    const answers = told.map(({ uid, runId, progress }): Answer => {
      const run = found.get(runId);
      if (!run || run.node_uid !== uid) return { refused: unknownRun(runId) };
      if (isOver(run)) return { refused: ended(run) };
      if (progress.attempt !== run.attempt) return { refused: attemptIs(run, progress.attempt) };
      const row = { id: runId, heard_at: clock.now(), ...measured(run, progress) };
      const now: RunRow = { ...run, ...row, state: 'running', finished_at: null, reason: null };
      if (run.state !== 'running') back.push(now);
      found.set(runId, now);
      rows.set(runId, row);
      return { cancelled: run.cancelled_at !== null };
    });
    await runs.saveProgress(tx, [...rows.values()]);
    await on.tell(tx, back.map(runTold));
    return answers;
  });

  return {
    /** @throws AegisError backups.not_assigned, stale_generation, generation_conflict, run_conflict, run_ended, busy, limit, unsupported */
    start: async (actor: NodeActor, request: StartRun): Promise<RunGrant> => {
      if (actor.keyId === null)
        throw new AegisError(
          'backups.unsupported',
          "A node without a key cannot sign what it backed up. Enrol it with 'aegis register', or use the agents' own API (/api/agent).",
        );
      // Such runs are proven otherwise, and not through this door.
      if (request.trigger === 'agent' || request.trigger === 'server')
        throw new AegisError(
          'http.malformed',
          "The body's field 'trigger' is none of a node's: it is schedule, missed or request.",
        );
      // It becomes part of keys, which tell one run from another by their letters.
      if (!isUuid(request.run_id))
        throw new AegisError('http.malformed', "The body's field 'run_id' is not a UUID in lower case.");
      const known = await runs.byId(request.run_id);
      // What has begun goes on under its own terms, whatever has become of the configuration since.
      const isRepeat = known !== undefined && isRepeated(actor, known, request);
      const config = isRepeat ? null : await termsFor(actor.uid, request);
      const { run, former } = await runs.write('backups.start', async (tx) => {
        const before = await runs.lock(tx, request.run_id);
        if (!before) {
          if (!config) throw unknownRun(request.run_id);
          return { run: await begin(tx, actor, config, request), former: null };
        }
        if (isRepeated(actor, before, request)) {
          const change = anew(clock.now());
          await runs.update(tx, before.id, change);
          if (before.state !== 'running') await on.tell(tx, [runTold({ ...before, ...change })]);
          return { run: { ...before, ...change }, former: null };
        }
        if (before.cancelled_at !== null || !config) return { run: before, former: null };
        return { run: await advance(tx, actor, before, config, request), former: before };
      });
      // As it was: the next attempt may go elsewhere.
      if (former !== null) on.access.attemptOver(former, former.attempt);
      return grantOf(run, (await on.nodes.keysOf(actor.uid))?.sealingKey ?? null);
    },

    /** @throws AegisError backups.unknown_run, run_ended, run_conflict */
    progress: async (actor: NodeActor, runId: string, progress: RunProgress): Promise<{ cancelled: boolean }> => {
      const answer = await tell({ uid: actor.uid, runId, progress: { ...progress, ...storableTexts(progress) } });
      if ('refused' in answer) throw answer.refused;
      return answer;
    },

    /** Also after the end: the last lines may come late. @throws AegisError backups.unknown_run, http.too_large */
    addLog: async (actor: NodeActor, runId: string, lines: readonly Line[]): Promise<{ stored: number }> => {
      refuseLongMetadata(lines);
      return runs.write('backups.run-log', async (tx) => {
        const run = await runs.lock(tx, runId);
        if (!run || run.node_uid !== actor.uid) throw unknownRun(runId);
        const stored = await on.log.addToRun(tx, run, lines);
        if (stored > 0) await runs.update(tx, runId, { logged: run.logged + stored });
        return { stored };
      });
    },
    placeOfRun,
    /** A run of somebody who does not come through `start`. The caller has seen that it may. @throws AegisError backups.busy, limit */
    begin,
  };
};
export type RunsService = ReturnType<typeof runsService>;

/** Whether the request begins what has begun already; false for another attempt.
 *  @throws AegisError backups.run_conflict, run_ended */
const isRepeated = (actor: NodeActor, run: RunRow, request: StartRun): boolean => {
  const isSame = run.node_uid === actor.uid && run.config_id === request.config_id && run.cause === request.trigger;
  if (!isSame) throw takenRun(request.run_id);
  if (isOver(run)) throw ended(run);
  if (request.attempt < run.attempt) throw attemptIs(run, request.attempt);
  return request.attempt === run.attempt;
};

/** What was told later counts: requests may overtake one another. */
const measured = (run: RunRow, progress: RunProgress): Omit<ProgressRow, 'id' | 'heard_at'> => {
  const known = run.progress === null ? null : (JSON.parse(run.progress) as RunProgress);
  const newest = known && known.attempt === progress.attempt && known.at > progress.at ? known : progress;
  return {
    progress: JSON.stringify(newest),
    archive_bytes: newest.archive_bytes,
    uploaded_bytes: newest.uploaded_bytes,
  };
};
/** As any database takes it: names of files stand there, and so not a reason to refuse. */
const storableTexts = ({ path, reason }: RunProgress): Pick<RunProgress, 'path' | 'reason'> => ({
  ...(path === undefined ? {} : { path: storable(path) }),
  ...(reason === undefined ? {} : { reason: storable(reason) }),
});
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();

const notAssigned = (configId: string): AegisError =>
  new AegisError(
    'backups.not_assigned',
    `The configuration ${configId} is not assigned to this node. Fetch the desired state.`,
  );
