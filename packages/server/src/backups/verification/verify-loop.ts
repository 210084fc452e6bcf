import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import { loop } from '../../platform/loop.ts';
import type { Storage } from '../../tables.ts';
import { specOf } from '../config-views.ts';
import type { ConfigsRepository } from '../configs-repository.ts';
import { GOOD_STATES } from '../runs-repository.ts';
import type { RunRow } from '../tables.ts';
import type { Verified } from '../verify-run.ts';

/** Fetches the newest archive of each node as often as its configuration says (`verification.every_days`), and compares it with what was
 *  signed; one after the other. What lies in folders of nodes, or was signed by nobody, it leaves out. */

const EVERY_MS = 10 * 60_000;
const DAY_MS = 86_400_000;
/** After a destination that failed: it says nothing of the archive. */
const AGAIN_MS = 3_600_000;
/** The newest of a node among which the last verified one is looked for, removed ones included. */
const LOOKED_AT = 500;

export const scheduledVerification = (on: {
  storage: Storage;
  configs: ConfigsRepository;
  nodesOf: (configId: string) => Promise<(string | null)[]>;
  verify: (run: RunRow, signal: AbortSignal) => Promise<Verified>;
  /** One was found damaged. */
  damaged: (run: RunRow, verified: Verified) => Promise<void>;
  clock: Clock;
  log: Log;
}) => {
  const { clock, log } = on;
  const { read } = on.storage;
  const failedAt = new Map<string, number>();
  let signal = new AbortController().signal;

  const ofPair = (configId: string, nodeUid: string | null) =>
    read
      .selectFrom('backups_runs')
      .where('config_id', '=', configId)
      .where('node_uid', nodeUid === null ? 'is' : '=', nodeUid)
      .orderBy('started_at', 'desc')
      .orderBy('id', 'desc');
  const lastVerifiedAt = async (configId: string, nodeUid: string | null): Promise<number> => {
    const rows = await ofPair(configId, nodeUid).select('verified').limit(LOOKED_AT).execute();
    const times = rows.flatMap(({ verified }) =>
      verified === null ? [] : [Date.parse((JSON.parse(verified) as Verified).at)],
    );
    return Math.max(Number.NEGATIVE_INFINITY, ...times);
  };
  const newest = (configId: string, nodeUid: string | null): Promise<RunRow | undefined> =>
    ofPair(configId, nodeUid)
      .selectAll()
      .where('state', 'in', GOOD_STATES)
      .where('removed_at', 'is', null)
      .where('statement', 'is not', null)
      .limit(1)
      .executeTakeFirst();

  const verifyOne = async (run: RunRow): Promise<void> => {
    if (clock.now() - (failedAt.get(run.id) ?? Number.NEGATIVE_INFINITY) < AGAIN_MS) return;
    try {
      const verified = await on.verify(run, signal);
      failedAt.delete(run.id);
      if (!verified.ok) await on.damaged(run, verified);
    } catch (err) {
      if (signal.aborted) return;
      failedAt.delete(run.id);
      if (failedAt.size >= 1000) failedAt.delete(failedAt.keys().next().value ?? '');
      failedAt.set(run.id, clock.now());
      const why = err instanceof AegisError ? err.code : undefined;
      log.warn({ run_id: run.id, code: why, err }, 'a backup could not be verified; it is tried again in an hour');
    }
  };
  const turn = async (): Promise<void> => {
    for await (const config of on.configs.each()) {
      const spec = specOf(config);
      if (spec.verification === undefined || spec.destination.kind !== 's3') continue;
      const everyMs = spec.verification.every_days * DAY_MS;
      for (const nodeUid of await on.nodesOf(config.id)) {
        if (signal.aborted) return;
        if (clock.now() - (await lastVerifiedAt(config.id, nodeUid)) < everyMs) continue;
        const run = await newest(config.id, nodeUid);
        if (run) await verifyOne(run);
      }
    }
  };
  return {
    turn,
    start: (stopping: AbortSignal): void => {
      signal = stopping;
      loop({ name: 'backups.verification', everyMs: EVERY_MS, turn, signal: stopping, log });
    },
  };
};
export type ScheduledVerification = ReturnType<typeof scheduledVerification>;
