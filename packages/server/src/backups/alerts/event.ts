import { isGood, type RunReason } from '@aegis/protocol/backups/run';
import { isoTime, isoTimeOrNull } from '../../platform/clock.ts';
import type { ConfigRow, RunRow } from '../tables.ts';

/** What an alert says, as it is sent. Documented in docs/operating.md; fields are only ever added. */
export interface AlertEvent {
  /** The same in each sending: what came twice can be told by it. */
  alert_id: string;
  event: 'backup.failed' | 'backup.overdue' | 'backup.recovered' | 'backup.damaged';
  at: string;
  message: string;
  config: { config_id: string; name: string };
  /** Null for the server's own files. */
  node: { uid: string; name: string } | null;
  run: {
    run_id: string;
    state: string;
    started_at: string;
    finished_at: string | null;
    reason: RunReason | null;
  } | null;
  /** Since when something was told to be wrong; of `backup.overdue` the time since which no backup has succeeded. */
  since: string | null;
}

type Base = Pick<AlertEvent, 'alert_id' | 'at'>;

export const failedEvent = (base: Base, run: RunRow): AlertEvent => {
  const reason = run.reason === null ? null : (JSON.parse(run.reason) as RunReason);
  return {
    ...base,
    event: 'backup.failed',
    message: `The backup '${run.config_name}' of '${run.node_name}' ${run.state === 'lost' ? 'is lost' : 'failed'}${reason ? `: ${reason.message}` : '.'}`,
    ...ofRun(run),
    since: null,
  };
};

export const recoveredEvent = (base: Base, run: RunRow, since: number): AlertEvent => ({
  ...base,
  event: 'backup.recovered',
  message: `The backup '${run.config_name}' of '${run.node_name}' succeeded again.`,
  ...ofRun(run),
  since: isoTime(since),
});

export const overdueEvent = (
  base: Base,
  config: Pick<ConfigRow, 'id' | 'name'>,
  node: { uid: string; name: string } | null,
  than: { since: number; expectSec: number; never: boolean },
): AlertEvent => ({
  ...base,
  event: 'backup.overdue',
  message: `The backup '${config.name}' of '${node?.name ?? 'the server'}' ${than.never ? 'has never succeeded since' : 'last succeeded'} ${isoTime(than.since)}, and is expected every ${than.expectSec} s.`,
  config: { config_id: config.id, name: config.name },
  node,
  run: null,
  since: isoTime(than.since),
});

/** Found by a verification. */
export const damagedEvent = (base: Base, run: RunRow, why: string): AlertEvent => ({
  ...base,
  event: 'backup.damaged',
  message: `The archive of '${run.config_name}' of '${run.node_name}' is not as it was made: ${why}`,
  ...ofRun(run),
  since: null,
});

const ofRun = (run: RunRow): Pick<AlertEvent, 'config' | 'node' | 'run'> => ({
  config: { config_id: run.config_id, name: run.config_name },
  node: run.node_uid === null ? null : { uid: run.node_uid, name: run.node_name },
  run: {
    run_id: run.id,
    state: run.state,
    started_at: isoTime(run.started_at),
    finished_at: isoTimeOrNull(run.finished_at),
    reason: run.reason === null || isGood(run.state) ? null : (JSON.parse(run.reason) as RunReason),
  },
});
