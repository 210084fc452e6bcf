import type { Report } from '@aegis/protocol/commands/carrier';
import { isFinal, reportedByNode } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import { type Changes, standingOf } from './changes.ts';
import { type ChunkPlan, nextOf } from './chunk-plan.ts';
import { storable } from './storable.ts';
import type { LiveExecution } from './tables.ts';

/** What an acknowledgement and a report do to an execution. Pure: rows in `Changes`, no database. */

/** The node has on its disk what it was offered. While a cancel is outstanding, its first word may still be about the command
 *  itself, offered before: only the next one counts for the cancel, which is offered again until then. */
export const acknowledge = (changes: Changes, row: LiveExecution): void => {
  const standing = standingOf(row);
  row.heard_at = changes.now;
  changes.touch(row);
  if (row.cancel_due_at !== null && row.cancel_at !== null) {
    if (row.delivered_at === null) row.delivered_at = changes.now;
    else if (row.cancel_offered_at !== null) row.cancel_due_at = Number.MAX_SAFE_INTEGER; // only when asked with resume=true
    return;
  }
  const next = reportedByNode(standing, 'delivered');
  if (!next) return;
  row.delivered_at ??= changes.now;
  changes.settle(row, next);
};

/** What a final report claims of the output, against what is stored. Null: nothing to object to. */
export const outputObjection = (row: LiveExecution, report: Report): AegisError | null => {
  if (!isFinal(report.state) || !report.output) return null;
  const next = nextOf(row);
  const details = { execution_id: row.id, next };
  for (const stream of ['stdout', 'stderr'] as const) {
    const { bytes } = report.output[stream];
    if (bytes > next[stream])
      return new AegisError(
        'commands.output_incomplete',
        `The report says that ${stream} has ${bytes} bytes; ${next[stream]} are here. Send the rest (or a gap), then the report again.`,
        { details },
      );
    if (bytes < next[stream])
      return new AegisError(
        'commands.report_mismatch',
        `The report says that ${stream} has ${bytes} bytes; ${next[stream]} are here already.`,
        { details },
      );
  }
  return null;
};

export const advanceOutput = (row: LiveExecution, plan: ChunkPlan): void => {
  row.stdout_next = plan.next.stdout;
  row.stdout_missing = plan.missing.stdout;
  row.stderr_next = plan.next.stderr;
  row.stderr_missing = plan.missing.stderr;
};

/** @param verified see `verdict` in reports.ts */
export const applyReport = (
  changes: Changes,
  row: LiveExecution,
  { report, signed, verified }: { report: Report; signed: boolean; verified: boolean | null },
): void => {
  row.heard_at = changes.now;
  changes.touch(row);
  const next = reportedByNode(standingOf(row), report.state);
  if (!next) return;
  if (report.state !== 'expired' && report.state !== 'refused') row.delivered_at ??= changes.now;
  if (report.started_at) row.started_at = Date.parse(report.started_at);
  if (isFinal(report.state)) fillIn(row, report, signed, verified);
  else if (report.state === 'running') row.started_at ??= changes.now;
  changes.settle(row, next);
  if (!isFinal(report.state)) return;
  if (report.state !== 'succeeded' && row.newest === 1)
    changes.commandOf(row).error_message = `${row.node_name}: ${reasonOf(row)}`;
  changes.retryIfAllowed(row, report.state);
};

const fillIn = (row: LiveExecution, report: Report, signed: boolean, verified: boolean | null): void => {
  row.finished_at = report.finished_at ? Date.parse(report.finished_at) : null;
  row.exit_code = report.exit_code ?? null;
  row.signal = report.signal ? storable(report.signal) : null;
  row.error_code = report.error ? storable(report.error.code) : null;
  row.error_message = report.error ? storable(report.error.message) : null;
  row.usage = report.usage ? JSON.stringify(report.usage) : null;
  row.tree_empty = report.tree_empty === undefined ? null : Number(report.tree_empty);
  row.report_signed = signed ? 1 : 0;
  row.output_verified = verified === null ? null : Number(verified);
  row.stdout_bytes = report.output?.stdout.bytes ?? null;
  row.stdout_sha256 = report.output?.stdout.sha256 ?? null;
  row.stderr_bytes = report.output?.stderr.bytes ?? null;
  row.stderr_sha256 = report.output?.stderr.sha256 ?? null;
};

const reasonOf = (row: LiveExecution): string => {
  if (row.error_message) return row.error_message;
  if (row.signal) return `ended by signal ${row.signal}`;
  return row.exit_code === null ? row.state : `exit code ${row.exit_code}`;
};
