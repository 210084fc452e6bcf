import type { Tx } from '../tables.ts';
import type { RunRow } from './tables.ts';

/** What follows the end of a run, a loss too: retention, alerts. */
export interface AfterEnd {
  /** Part of the transaction that stores the end: what has to follow is as durable as the end itself. */
  inTransaction(tx: Tx, run: RunRow): Promise<void>;
  /** Once that is durable. Must not throw. */
  afterwards(run: RunRow): void;
}
