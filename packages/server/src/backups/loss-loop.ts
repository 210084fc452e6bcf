import type { RunReason } from '@aegis/protocol/backups/run';
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { AfterEnd } from './after-end.ts';
import type { NodeDoor } from './node-door.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { RunRow } from './tables.ts';

/** Runs of which nothing is heard any more become `lost`, and yield to the node's own later word. Two kinds of silence: of a run whose node is
 *  there and speaks of other things, which is soon long enough; and of a node that is away, with the run perhaps going on behind a cut
 *  network, for which much more time passes. The first kind is counted from the moment that the node was seen to be back. */

const EVERY_MS = 60_000;

export interface LossRules {
  /** Of a run whose node is there. */
  lostAfterMs: number;
  /** Of a node that is away. */
  offlineLostAfterMs: number;
}

export const lossDetection = (on: {
  runs: RunsRepository;
  nodes: NodeDoor;
  after: AfterEnd;
  rules: LossRules;
  clock: Clock;
  log: Log;
}) => {
  const { runs, rules } = on;
  type Quiet = Awaited<ReturnType<RunsRepository['underWay']>>[number];

  const verdict = (run: Quiet, isThere: boolean, now: number): 'lost' | { silent_since: number | null } => {
    if (!isThere) return now - run.heard_at >= rules.offlineLostAfterMs ? 'lost' : { silent_since: null };
    const since = run.silent_since ?? now;
    return now - since >= rules.lostAfterMs ? 'lost' : { silent_since: since };
  };
  const lose = async ({ id, heard_at }: Quiet, isThere: boolean, now: number): Promise<void> => {
    const lost = await runs.write('backups.lost', async (tx) => {
      const run = await runs.lock(tx, id);
      if (run?.state !== 'running' || run.heard_at !== heard_at) return null; // it spoke meanwhile
      const reason: RunReason = { code: 'backups.lost', message: reasonText(isThere, now - heard_at) };
      const change = { state: 'lost' as const, finished_at: now, reason: JSON.stringify(reason) };
      await runs.update(tx, id, change);
      const after: RunRow = { ...run, ...change };
      await on.after.inTransaction(tx, after);
      return after;
    });
    if (!lost) return;
    on.log.warn({ run_id: id, node_uid: lost.node_uid }, 'a backup run is lost: nothing is heard of it any more');
    on.after.afterwards(lost);
  };

  const turn = async (): Promise<void> => {
    const now = on.clock.now();
    const quiet = (await runs.underWay()).filter((run) => run.node_uid !== null && now - run.heard_at >= EVERY_MS);
    if (quiet.length === 0) return;
    const online = await on.nodes.onlineOf([...new Set(quiet.map(({ node_uid }) => node_uid ?? ''))]);
    for (const run of quiet) {
      // An agent of the seed tells nothing between start and end.
      const isThere = run.cause !== 'agent' && online.has(run.node_uid ?? '');
      const is = verdict(run, isThere, now);
      if (is === 'lost') await lose(run, isThere, now);
      else if (is.silent_since !== run.silent_since)
        await runs.write('backups.silent', async (tx) => {
          const current = await runs.lock(tx, run.id);
          if (current?.state === 'running' && current.heard_at === run.heard_at) await runs.update(tx, run.id, is);
        });
    }
  };
  return {
    turn,
    start: (signal: AbortSignal): void => loop({ name: 'backups.loss', everyMs: EVERY_MS, turn, signal, log: on.log }),
  };
};
export type LossDetection = ReturnType<typeof lossDetection>;

const reasonText = (isThere: boolean, silentMs: number): string => {
  const minutes = Math.round(silentMs / 60_000);
  return isThere
    ? `The node is there but has said nothing of this run for ${minutes} minutes. Look at its daemon's log; if it still speaks of the run, that counts.`
    : `The node has been away for ${minutes} minutes. If it comes back and speaks of the run, that counts.`;
};
