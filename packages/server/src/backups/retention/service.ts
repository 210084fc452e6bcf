import type { Decision } from '@aegis/protocol/backups/endpoints';
import { isGood } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import { loop } from '../../platform/loop.ts';
import type { OneAtATime } from '../../platform/one-at-a-time.ts';
import { specOf } from '../config-views.ts';
import type { ConfigsRepository } from '../configs-repository.ts';
import type { DestinationsRepository, Place } from '../destinations-repository.ts';
import type { NodeDoor } from '../node-door.ts';
import type { RunsRepository } from '../runs-repository.ts';
import type { ConfigRow, RemovalRow, RunRow } from '../tables.ts';
import { type History, type Judged, judge } from './decide.ts';
import type { RemovalsRepository } from './removals-repository.ts';
import type { ObjectRemoval } from './remove-objects.ts';

/** retention: which runs go, and their going. What is to go is first marked in one transaction, from which moment nobody is offered it any more,
 *  and then removed: by the server where it can reach it, else by the node, which hears of it with the end of its next run. */

const EVERY_MS = 60_000;
const PASS_EVERY_MS = 24 * 3_600_000;
/** Of one turn; what is left is the next one's. */
const REMOVED_AT_ONCE = 200;
/** A destination that is away may take minutes to say so each time. */
const FAILURES_AT_ONCE = 3;
/** How long an operator waits for the objects to be gone: they go on going. */
const WAITED_MS = 15_000;
const MARKED_AT_ONCE = 500;
const TOLD_AT_ONCE = 1000;
/** In one answer. */
const MAX_DECISIONS = 20_000;

interface Pair {
  configId: string;
  nodeUid: string | null;
}

export const retentionService = (on: {
  configs: ConfigsRepository;
  destinations: DestinationsRepository;
  removals: RemovalsRepository;
  runs: RunsRepository;
  remove: ObjectRemoval;
  nodes: Pick<NodeDoor, 'find'>;
  findConfig: (id: string) => Promise<ConfigRow>;
  inTurn: OneAtATime;
  clock: Clock;
  log: Log;
}) => {
  const { removals, runs, clock } = on;
  /** Of runs that have just ended. What a crash forgets of it, the daily pass finds. */
  const waiting = new Map<string, Pair>();
  let passedAt = Number.NEGATIVE_INFINITY;
  let awake = false;
  let signal: AbortSignal | undefined;

  const judged = async (config: ConfigRow, nodeUid: string | null): Promise<Judged[]> => {
    const spec = specOf(config);
    const timezone = spec.schedule?.timezone ?? 'UTC';
    return judge(spec.retention, await removals.history(config.id, nodeUid), clock.now(), { timezone });
  };

  /** What was decided on holds no more where the configuration was changed since, and nothing is marked then.
   *  @throws NoneLeft rather than that none to fall back on is left */
  const markIn = async (pair: Pair, revision: number, goners: readonly Judged[]): Promise<string[]> => {
    const places = await on.destinations.byIds(goners.map(({ run }) => run.destination_id));
    return removals.write('backups.forget', async (tx) => {
      const config = await on.configs.lock(tx, pair.configId); // two servers decide one after the other
      if (!config || config.deleted_at !== null || config.revision !== revision) return [];
      const before = await removals.hasSound(tx, pair.configId, pair.nodeUid);
      const rows = await runs.lockMany(tx, goners.map(({ id }) => id).sort());
      const now = clock.now();
      const marked: RemovalRow[] = [];
      for (const { id, reasons, run } of goners) {
        const row = rows.get(id);
        if (!row || row.removed_at !== null || hasChanged(run, row)) continue;
        const place = places.get(row.destination_id);
        if (!place) continue;
        await runs.update(tx, id, { removed_at: now });
        marked.push({
          run_id: id,
          node_uid: row.node_uid,
          remover: removerOf(row, place),
          decided_at: now,
          next_at: now,
          tries: 0,
          told_in: null,
          done_at: null,
          reason: reasons.join('; ').slice(0, 1000),
          error: null,
        });
      }
      if (before && marked.length > 0 && !(await removals.hasSound(tx, pair.configId, pair.nodeUid)))
        throw new NoneLeft();
      await removals.add(tx, marked);
      return marked.map(({ run_id }) => run_id);
    });
  };
  const markSome = async (pair: Pair, revision: number, goners: readonly Judged[]): Promise<string[]> => {
    try {
      return await markIn(pair, revision, goners);
    } catch (error) {
      if (!(error instanceof NoneLeft)) throw error;
      on.log.warn(
        { config_id: pair.configId, node_uid: pair.nodeUid },
        'retention would have removed the last good backup, since another one was lost meanwhile: nothing is removed',
      );
      return [];
    }
  };
  const mark = async (pair: Pair, revision: number, decisions: readonly Judged[]): Promise<Set<string>> => {
    const goners = decisions.filter(({ keep }) => !keep);
    const marked = new Set<string>();
    for (let at = 0; at < goners.length; at += MARKED_AT_ONCE)
      for (const id of await markSome(pair, revision, goners.slice(at, at + MARKED_AT_ONCE))) marked.add(id);
    if (marked.size > 0)
      on.log.info(
        { config_id: pair.configId, node_uid: pair.nodeUid, count: marked.size },
        'retention removes backups that no rule keeps',
      );
    return marked;
  };
  const apply = async (pair: Pair): Promise<void> => {
    const config = await on.configs.byId(pair.configId);
    if (!config || Object.keys(specOf(config).retention).length === 0) return;
    await mark(pair, config.revision, await judged(config, pair.nodeUid));
  };

  const removeDue = async (): Promise<void> => {
    let left = REMOVED_AT_ONCE;
    let patience = FAILURES_AT_ONCE;
    while (left > 0 && !signal?.aborted) {
      const due = await removals.due(clock.now(), Math.min(left, 20));
      if (due.length === 0) return;
      for (const removal of due) if (!signal?.aborted && !(await on.remove(removal)) && --patience === 0) return;
      left -= due.length;
    }
  };
  const applyWaiting = async (): Promise<void> => {
    for (const [key, pair] of [...waiting]) {
      if (signal?.aborted) return;
      waiting.delete(key);
      await apply(pair);
    }
  };
  const pass = async (): Promise<void> => {
    for await (const config of on.configs.each()) {
      if (Object.keys(specOf(config).retention).length === 0) continue;
      for (const nodeUid of await removals.nodesOf(config.id)) {
        if (signal?.aborted) return;
        await apply({ configId: config.id, nodeUid });
        await new Promise((resolve) => setImmediate(resolve)); // others are answered between two nodes
      }
    }
  };
  const turn = (): Promise<void> =>
    on.inTurn(async () => {
      awake = false;
      await applyWaiting();
      if (clock.now() - passedAt >= PASS_EVERY_MS) {
        await pass();
        passedAt = clock.now();
      }
      await removeDue();
    });
  const soon = (): void => {
    if (awake) return;
    awake = true;
    setImmediate(() => {
      if (!signal?.aborted)
        turn().catch((err: unknown) => on.log.warn({ err }, 'retention failed; its loop tries again'));
    });
  };

  return {
    /** After an end that was stored. */
    runEnded: (run: RunRow): void => {
      if (!isGood(run.state)) return;
      waiting.set(`${run.config_id}/${run.node_uid}`, { configId: run.config_id, nodeUid: run.node_uid });
      soon();
    },
    /** For the answer to a run's end. */
    forgetFor: (nodeUid: string, runId: string) => removals.tell(nodeUid, runId, clock.now(), TOLD_AT_ONCE),
    /** @throws AegisError backups.unknown_config, nodes.unknown_node, backups.limit */
    forget: async (
      by: string,
      id: string,
      wanted: { dry_run: boolean; node?: string | undefined },
    ): Promise<{ decisions: Decision[] }> => {
      const config = await on.findConfig(id);
      const uids =
        wanted.node === undefined ? await removals.nodesOf(config.id) : [(await on.nodes.find(wanted.node, null)).uid];
      const decided: (readonly [Pair, Judged[]])[] = [];
      let count = 0;
      for (const nodeUid of uids) {
        const decisions = await judged(config, nodeUid);
        count += decisions.length;
        if (count > MAX_DECISIONS)
          throw new AegisError(
            'backups.limit',
            `'${config.name}' has more than ${MAX_DECISIONS} runs, too many for one answer. Name a node; the server itself applies the retention of all once a day.`,
          );
        decided.push([{ configId: config.id, nodeUid }, decisions]);
      }
      let marked = new Set<string>();
      if (!wanted.dry_run) {
        for (const [pair, decisions] of decided)
          for (const one of await mark(pair, config.revision, decisions)) marked.add(one);
        if (marked.size > 0)
          on.log.info({ config_id: config.id, by, count: marked.size }, 'retention was applied by hand');
        if (marked.size > 0) await atMost(WAITED_MS, on.inTurn(removeDue));
        marked = await removals.removedOf([...marked]);
      }
      return { decisions: decided.flatMap(([, decisions]) => decisions.map((one) => decisionView(one, marked))) };
    },
    turn,
    start: (stopping: AbortSignal): void => {
      signal = stopping;
      loop({ name: 'backups.retention', everyMs: EVERY_MS, turn, signal: stopping, log: on.log });
    },
  };
};
export type RetentionService = ReturnType<typeof retentionService>;

/** Undoes a marking: what it relied on to stay is not there, or not good, any more. */
class NoneLeft extends Error {}

const atMost = async (ms: number, work: Promise<void>): Promise<void> => {
  let timer: NodeJS.Timeout | undefined;
  const waited = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, waited]).finally(() => clearTimeout(timer));
};

/** Since it was looked at: what was decided need not hold any more. */
const hasChanged = (seen: History, row: RunRow): boolean =>
  seen.state !== row.state ||
  seen.destination_id !== row.destination_id ||
  seen.locked_until !== row.locked_until ||
  seen.verified !== row.verified;

const removerOf = (run: RunRow, { destination }: Place): RemovalRow['remover'] =>
  destination.kind === 's3' ? 'server' : run.node_uid === null ? 'own' : 'node';

const decisionView = ({ id, keep, reasons, run }: Judged, marked: ReadonlySet<string>): Decision => ({
  run_id: id,
  node: run.node_name,
  started_at: isoTime(run.started_at),
  state: run.state,
  keep,
  reasons,
  removed: marked.has(id),
});
