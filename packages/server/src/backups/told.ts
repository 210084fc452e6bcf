import type { RunReason } from '@aegis/protocol/backups/run';
import type { Told } from '../platform/told.ts';
import type { AlertEvent } from './alerts/event.ts';
import type { RunRow } from './tables.ts';

/** What listeners learn of backups: each state of a run, and every alert. */

const nodeOf = (uid: string | null, name: string): Told['node'] => (uid === null ? null : { uid, name });

export const runTold = (run: RunRow): Told => ({
  type: `run.${run.state}`,
  node: nodeOf(run.node_uid, run.node_name),
  data: {
    run_id: run.id,
    config_id: run.config_id,
    config: run.config_name,
    trigger: run.cause,
    attempt: run.attempt,
    archive_bytes: run.archive_bytes,
    uploaded_bytes: run.uploaded_bytes,
    reason: run.reason === null ? null : (JSON.parse(run.reason) as RunReason),
  },
});

export const alertTold = ({ alert_id, event, message, config, node, run, since }: AlertEvent): Told => ({
  type: `alert.${event}`,
  node,
  data: {
    alert_id,
    message,
    config_id: config.config_id,
    config: config.name,
    run_id: run?.run_id ?? null,
    since,
    reason: run?.reason ?? null,
  },
});
