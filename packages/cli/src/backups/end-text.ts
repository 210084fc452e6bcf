import { table } from '../ui/table.ts';
import { byteCount, duration } from '../ui/time.ts';
import { countOf, type Fields, type NodeEnd, textOf } from './node-lines.ts';

/** How runs and restores on nodes ended, for people and as an exit code. */

/** A run that completed with errors: what could not be read, or changed meanwhile, is not in the backup as it is. */
export const WITH_ERRORS = 3;

/** 0: all completed; 3: all are good, some with errors; 1: otherwise. */
export const exitOf = (ends: readonly NodeEnd[]): number => {
  const states = ends.map(({ fields }) => fields && textOf(fields.state));
  if (states.length === 0 || !states.every((state) => state === 'completed' || state === 'completed_with_errors'))
    return 1;
  return states.includes('completed_with_errors') ? WITH_ERRORS : 0;
};

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null;

const stateOf = ({ fields, refusal }: NodeEnd): string =>
  (fields && textOf(fields.state)) ?? (refusal?.code === 'cli.interrupted' ? 'cancelled' : 'failed');

const whyOf = ({ fields, why }: NodeEnd): string => {
  if (fields === null) return why ?? '';
  const reason = isFields(fields.reason) ? fields.reason : {};
  const errors = errorCount(fields);
  return textOf(reason.message) ?? (errors > 0 ? `${errors} not as they are` : '');
};

/** A count, or the list itself. */
export const errorCount = ({ errors, totals }: Fields): number => {
  const told = isFields(totals) ? countOf(totals.errors) : null;
  return told ?? countOf(errors) ?? (Array.isArray(errors) ? errors.length : 0);
};

const bytes = (value: unknown): string => {
  const count = countOf(value);
  return count === null ? '' : byteCount(count);
};
const number = (value: unknown): string => String(countOf(value) ?? '');
const time = (value: unknown): string => {
  const ms = countOf(value);
  return ms === null ? '' : duration(ms);
};

export const runEnds = (ends: readonly NodeEnd[], width: number | undefined): string =>
  table(
    ['NODE', 'STATE', 'FILES', 'SIZE', 'STORED', 'TOOK', 'RUN', 'NOTE'],
    ends.map((end) => {
      const fields = end.fields ?? {};
      const totals = isFields(fields.totals) ? fields.totals : {};
      return [
        end.node,
        stateOf(end),
        number(totals.files),
        bytes(totals.bytes),
        bytes(fields.archive_bytes),
        time(fields.duration_ms),
        textOf(fields.run_id) ?? '',
        whyOf(end),
      ];
    }),
    width,
  );

export const restoreEnds = (ends: readonly NodeEnd[], width: number | undefined): string =>
  table(
    ['NODE', 'STATE', 'RESTORED', 'SKIPPED', 'DELETED', 'SIZE', 'NOTE'],
    ends.map((end) => {
      const fields = end.fields ?? {};
      return [
        end.node,
        stateOf(end),
        number(fields.restored),
        number(fields.skipped),
        number(fields.deleted),
        bytes(fields.bytes),
        whyOf(end),
      ];
    }),
    width,
  );

/** `path: message (code)` of each error that came along. */
export const errorLines = ({ errors }: Fields): string[] =>
  (Array.isArray(errors) ? errors : []).flatMap((error: unknown) =>
    isFields(error)
      ? [`${textOf(error.path) ?? '?'}: ${textOf(error.message) ?? 'failed'} (${textOf(error.code) ?? '?'})`]
      : [],
  );
