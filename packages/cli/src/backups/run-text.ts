import type { Decision, RunLogLine } from '@aegis/protocol/backups/endpoints';
import type { Run, RunProgress } from '@aegis/protocol/backups/run';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { ago, byteCount, took } from '../ui/time.ts';
import { amountText, progressOf } from './progress-view.ts';
import { shortIds } from './run-reference.ts';

/** Runs as people read them. */

export const canBeRestored = ({ state, removed_at }: Pick<Run, 'state' | 'removed_at'>): boolean =>
  (state === 'completed' || state === 'completed_with_errors') && removed_at === null;

const progressText = (progress: RunProgress): string => amountText(progressOf(progress));

const noteOf = (run: Run): string => {
  if (run.state === 'running') return run.progress ? progressText(run.progress) : '';
  const reason = run.reason ? `${run.reason.message} (${run.reason.code})` : '';
  const errors = run.totals && run.totals.errors > 0 ? `${run.totals.errors} not backed up as they are` : '';
  const verified = run.verified && !run.verified.ok ? `verification: ${run.verified.message}` : '';
  const removed = run.removed_at === null ? '' : 'removed';
  return [reason, errors, verified, removed].filter(Boolean).join('; ');
};

/** Every run, with what is under way. */
export const runRow = (run: Run, now: number, short: (id: string) => string): string[] => [
  short(run.run_id),
  run.config,
  run.node,
  run.state,
  ago(run.started_at, now),
  took(run.started_at, run.finished_at, now),
  run.totals ? String(run.totals.files) : '',
  run.totals ? byteCount(run.totals.bytes) : '',
  run.archive_bytes > 0 ? byteCount(run.archive_bytes) : '',
  noteOf(run),
];
const RUN_HEAD = ['RUN', 'CONFIG', 'NODE', 'STATE', 'STARTED', 'TOOK', 'FILES', 'SIZE', 'STORED', 'NOTE'];

export const runTable = (runs: readonly Run[], now: number, width: number | undefined): string => {
  const short = shortIds(runs.map(({ run_id }) => run_id));
  return table(
    RUN_HEAD,
    runs.map((run) => runRow(run, now, short)),
    width,
  );
};

/** What can be restored. */
export const backupTable = (runs: readonly Run[], now: number, width: number | undefined): string => {
  const short = shortIds(runs.map(({ run_id }) => run_id));
  return table(
    ['RUN', 'CONFIG', 'NODE', 'MADE', 'FILES', 'SIZE', 'STORED', 'ENCRYPTED', 'TAGS', 'NOTE'],
    runs.map((run) => [
      short(run.run_id),
      run.config,
      run.node,
      `${run.started_at.slice(0, 16).replace('T', ' ')} (${ago(run.started_at, now)})`,
      String(run.totals?.files ?? ''),
      byteCount(run.totals?.bytes ?? 0),
      byteCount(run.archive_bytes),
      run.encrypted ? 'yes' : 'no',
      run.tags.join(','),
      noteOf(run),
    ]),
    width,
  );
};

export const runFacts = (run: Run, now: number): string => {
  const { totals } = run;
  const many = run.errors.length;
  const head = facts([
    ['run', run.run_id],
    ['configuration', `${run.config} (${run.config_id})`],
    ['node', run.node_uid === null ? run.node : `${run.node} (${run.node_uid})`],
    ['key', run.node_key],
    ['state', `${run.state}${run.attempt > 1 ? `, attempt ${run.attempt}` : ''}`],
    ['why', run.reason && `${run.reason.message} (${run.reason.code})`],
    ['begun by', run.trigger],
    ['started', `${run.started_at} (${ago(run.started_at, now)})`],
    ['finished', run.finished_at && `${run.finished_at}, after ${took(run.started_at, run.finished_at, now)}`],
    ['progress', run.state === 'running' && run.progress ? progressText(run.progress) : null],
    ['now at', run.state === 'running' ? run.progress?.path : null],
    [
      'contents',
      totals &&
        `${totals.files} files, ${totals.directories} folders, ${totals.others} others, ${byteCount(totals.bytes)}`,
    ],
    ['stored', run.archive_bytes > 0 ? byteCount(run.archive_bytes) : null],
    ['encrypted', run.encrypted ? 'yes' : 'no'],
    ['destination', run.destination],
    ['tags', run.tags.join(', ') || null],
    ['locked until', run.locked_until],
    ['verified', run.verified && `${run.verified.at}: ${run.verified.ok ? 'good' : run.verified.message}`],
    ['removed', run.removed_at],
    [
      'errors',
      totals && totals.errors > 0 ? `${totals.errors}${many < totals.errors ? `, the first ${many}:` : ':'}` : null,
    ],
  ]);
  const errors = run.errors.map(
    ({ path, code, message }) => `  ${plainText(path)}: ${plainText(message)} (${plainText(code)})\n`,
  );
  return head + errors.join('');
};

export const logLine = ({ at, level, message }: RunLogLine): string =>
  `${plainText(at)} ${plainText(level).padEnd(7)} ${plainText(message)}\n`;

export const decisionTable = (decisions: readonly Decision[], now: number, width: number | undefined): string => {
  const short = shortIds(decisions.map(({ run_id }) => run_id));
  return table(
    ['NODE', 'RUN', 'MADE', 'STATE', 'WHAT', 'WHY'],
    decisions.map(({ node, run_id, started_at, state, keep, removed, reasons }) => [
      node,
      short(run_id),
      `${started_at.slice(0, 16).replace('T', ' ')} (${ago(started_at, now)})`,
      state,
      keep ? 'keep' : removed ? 'removed' : 'remove',
      reasons.join(', '),
    ]),
    width,
  );
};
