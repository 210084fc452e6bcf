import type { Surroundings } from '../surroundings.ts';
import { plainText, truncated } from '../ui/plain-text.ts';
import { byteCount, duration } from '../ui/time.ts';
import { countOf, type Fields, textOf } from './node-lines.ts';

/** How far a run or a restore is: on a terminal one line with a bar that is drawn anew, else a line now and then, for whoever asked to follow.
 *  On stderr, so that results stay apart. */

export interface Progress {
  phase: string;
  bytes: number;
  bytesTotal: number | null;
  files: number;
  bytesPerSec: number | null;
  errors: number;
  path: string | null;
  /** Why the last attempt failed, while the next one waits. */
  reason: string | null;
}

/** As a node says it; what is missing or odd counts as nothing. */
export const progressOf = (fields: Fields): Progress => ({
  phase: textOf(fields.phase) ?? 'running',
  bytes: countOf(fields.bytes) ?? 0,
  bytesTotal: countOf(fields.bytes_total) || null,
  files: countOf(fields.files) ?? countOf(fields.entries) ?? 0,
  bytesPerSec: countOf(fields.bytes_per_sec),
  errors: countOf(fields.errors) ?? 0,
  path: textOf(fields.path),
  reason: textOf(fields.reason),
});

export interface ProgressView {
  show(node: string, progress: Progress): Promise<void>;
  /** Takes the bar away, for a word in between or at the end. */
  clear(): Promise<void>;
}

const LINE_EVERY_MS = 5000;
const DRAW_EVERY_MS = 100;
const BAR = 24;

/** For who did not ask: on a terminal alone. */
export const terminalView = (around: Surroundings): ProgressView =>
  around.output.errIsTerminal ? progressView(around) : { show: async () => undefined, clear: async () => undefined };

export const progressView = (around: Surroundings): ProgressView => {
  const { output, env } = around;
  return output.errIsTerminal && env.TERM !== 'dumb' ? barView(around) : lineView(around);
};

const lineView = ({ output, now }: Surroundings): ProgressView => {
  const last = new Map<string, { phase: string; at: number }>();
  return {
    show: async (node, progress) => {
      const before = last.get(node);
      if (before?.phase === progress.phase && now() - before.at < LINE_EVERY_MS) return;
      last.set(node, { phase: progress.phase, at: now() });
      await output.err(`${plainText(`${node}: ${amountText(progress)}`)}\n`);
    },
    clear: async () => undefined,
  };
};

const barView = ({ output, now }: Surroundings): ProgressView => {
  const all = new Map<string, Progress>();
  let drawn = false;
  let drawnAt = Number.NEGATIVE_INFINITY;
  return {
    show: async (node, progress) => {
      all.set(node, progress);
      if (now() - drawnAt < DRAW_EVERY_MS) return;
      drawnAt = now();
      drawn = true;
      await output.err(`\r\x1b[K${truncated(barText(all), (process.stderr.columns || 80) - 1)}`);
    },
    clear: async () => {
      if (drawn) await output.err('\r\x1b[K');
      drawn = false;
      drawnAt = Number.NEGATIVE_INFINITY;
    },
  };
};

const barText = (all: ReadonlyMap<string, Progress>): string => {
  const together = sumOf([...all.values()]);
  const [only] = all.keys();
  const who = all.size === 1 ? `${only} ` : `${all.size} nodes `;
  const share = shareOf(together);
  const filled = share === null ? 0 : Math.floor(share * BAR);
  const bar = share === null ? '' : `[${'#'.repeat(filled)}${'-'.repeat(BAR - filled)}] `;
  return plainText(`${who}${bar}${amountText(together)}${together.path ? `  ${together.path}` : ''}`);
};

const shareOf = ({ bytes, bytesTotal }: Progress): number | null =>
  bytesTotal === null ? null : Math.min(1, bytes / bytesTotal);

const sumOf = (all: readonly Progress[]): Progress => {
  const [first] = all;
  const sum = (pick: (one: Progress) => number): number => all.reduce((total, one) => total + pick(one), 0);
  return {
    phase: all.length === 1 ? (first?.phase ?? '') : 'running',
    bytes: sum(({ bytes }) => bytes),
    bytesTotal: all.some(({ bytesTotal }) => bytesTotal === null) ? null : sum(({ bytesTotal }) => bytesTotal ?? 0),
    files: sum(({ files }) => files),
    bytesPerSec: sum(({ bytesPerSec }) => bytesPerSec ?? 0) || null,
    errors: sum(({ errors }) => errors),
    path: all.length === 1 ? (first?.path ?? null) : null,
    reason: all.length === 1 ? (first?.reason ?? null) : null,
  };
};

/** `archiving 41% of 1.1 GiB, 1200 files, 96 MiB/s, 7s left, 1 error` */
export const amountText = (progress: Progress): string => {
  const { phase, bytes, bytesTotal, bytesPerSec, files, errors, reason } = progress;
  if (reason !== null) return `${phase} after: ${reason}`;
  const share = shareOf(progress);
  const amount =
    share === null || bytesTotal === null
      ? byteCount(bytes)
      : `${Math.floor(share * 100)}% of ${byteCount(bytesTotal)}`;
  const left = bytesTotal === null || !bytesPerSec || bytes >= bytesTotal ? null : (bytesTotal - bytes) / bytesPerSec;
  return [
    `${phase} ${amount}`,
    `${files} ${files === 1 ? 'file' : 'files'}`,
    ...(bytesPerSec ? [`${byteCount(bytesPerSec)}/s`] : []),
    ...(left === null ? [] : [`${duration(left * 1000)} left`]),
    ...(errors > 0 ? [`${errors} ${errors === 1 ? 'error' : 'errors'}`] : []),
  ].join(', ');
};
