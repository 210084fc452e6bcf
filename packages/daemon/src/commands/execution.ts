/** commands: what this node was told to run, from the journalled directive to the report that the server acknowledged.
 *  Called by daemon.ts, fed by the carrier's offers and the launcher's hints. Invariant: a report is sent only when it is in the
 *  journal, a folder is removed only when the server holds everything in it, and nothing is started twice (the folder's claim
 *  decides). Must not: trust a pid, a hint or anything of an offer that its directive does not sign. */

import type { NextOffsets, Report } from '@aegis/protocol/commands/carrier';
import type { Delivery } from '@aegis/protocol/commands/submission';

export type Phase =
  /** Waits for its time, its turn or room. */
  | 'queued'
  /** Its folder is made and the launcher is asked; nobody has claimed it yet as far as is known. */
  | 'starting'
  | 'running'
  /** `report` is final; output and report are on their way. */
  | 'ended';

/** One execution as the daemon holds it in memory: the journal's row without the body, and what this process knows beside. */
export interface Execution {
  /** Order of arrival. */
  readonly seq: number;
  readonly id: string;
  readonly commandId: string;
  readonly attempt: number;
  /** Larger goes first. */
  readonly priority: number;
  readonly delivery: Delivery;
  readonly notBeforeMs: number | null;
  readonly expiresAtMs: number;
  /** Per stream; 0 = none. */
  readonly outputLimitBytes: number;
  phase: Phase;
  /** Boot id under which it may have been handed to the launcher; durable before it is. */
  handedBoot: string | null;
  /** Its folder was made under that boot id. */
  begun: boolean;
  cancelAsked: boolean;
  report: Report | null;
  /** Whether this process hears of it by hints; otherwise its folder is looked at often. */
  hinted: boolean;
  /** What the server holds as far as is known; null until it was asked. */
  next: NextOffsets | null;
  /** The server does not know it: its output is thrown away. */
  forgotten: boolean;
}

export type ExecutionRow = Omit<Execution, 'phase' | 'hinted' | 'next' | 'forgotten'>;

export const executionOf = (row: ExecutionRow, { fresh }: { fresh: boolean }): Execution => ({
  ...row,
  phase: row.report ? 'ended' : 'queued',
  hinted: false,
  next: fresh ? { stdout: 0, stderr: 0 } : null,
  forgotten: false,
});
