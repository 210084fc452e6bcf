import type { Destination } from '@aegis/protocol/backups/config';
import type { FileError, Run, RunProgress, RunReason, RunTotals } from '@aegis/protocol/backups/run';
import { isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { Place } from './destinations-repository.ts';
import type { RunRow } from './tables.ts';

/** Runs as the API shows them. The JSON in rows is as it was validated when it came. */

const parsed = <T>(text: string | null): T | null => (text === null ? null : (JSON.parse(text) as T));

export const runView = (row: RunRow, place: Place | undefined): Run => ({
  run_id: row.id,
  config_id: row.config_id,
  config: row.config_name,
  node_uid: row.node_uid,
  node: row.node_name,
  node_key: row.node_key,
  trigger: row.cause,
  state: row.state,
  attempt: row.attempt,
  started_at: isoTime(row.started_at),
  finished_at: isoTimeOrNull(row.finished_at),
  progress: parsed<RunProgress>(row.progress),
  totals: parsed<RunTotals>(row.totals),
  archive_bytes: row.archive_bytes,
  uploaded_bytes: row.uploaded_bytes,
  errors: JSON.parse(row.errors) as FileError[],
  reason: parsed<RunReason>(row.reason),
  encrypted: row.encrypted === 1,
  destination: place ? `${placeText(place.destination)}${row.prefix}` : row.prefix,
  tags: JSON.parse(row.tags) as string[],
  locked_until: isoTimeOrNull(row.locked_until),
  removed_at: isoTimeOrNull(row.removed_at),
  verified: parsed<NonNullable<Run['verified']>>(row.verified),
});

/** `s3://bucket/` or `/folder/`: a run's prefix follows. */
const placeText = (destination: Destination): string =>
  destination.kind === 's3' ? `s3://${destination.bucket}/` : `${destination.path.replace(/\/+$/, '')}/`;

/** The prefix of an attempt's objects, made by the server alone. Ends with a slash. */
export const prefixOf = (
  destination: Destination,
  of: { nodeUid: string | null; configId: string; runId: string; attempt: number },
): string => {
  const own = `${of.nodeUid ?? 'server'}/${of.configId}/${of.runId}/${of.attempt}/`;
  return destination.kind === 's3' && destination.prefix !== '' ? `${destination.prefix}/${own}` : own;
};

/** What the seed's agents write below it. */
export const AGENT_ARCHIVE = 'archive.tar.gz';

/** The folder of all attempts of a run at a destination. Ends with a slash. */
export const runFolderOf = (destination: Destination, run: Pick<RunRow, 'id' | 'config_id' | 'node_uid'>): string =>
  prefixOf(destination, { nodeUid: run.node_uid, configId: run.config_id, runId: run.id, attempt: 1 }).slice(
    0,
    -'1/'.length,
  );
