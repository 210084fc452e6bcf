/** The states of an execution and of a command, and every rule by which they move. Pure: server, daemon and tests share it.
 *
 *  queued → delivered → running → succeeded | failed | timed_out | cancelled | lost | refused, or expired from queued.
 *  A state only moves forward; a late or repeated report never moves one back. What the server decides alone once an
 *  execution was offered (expired, cancelled, lost) is presumed, and yields to the node's own report. */
import * as z from 'zod/mini';

export const ExecutionState = z.enum([
  'queued',
  'delivered',
  'running',
  'succeeded',
  'failed',
  'timed_out',
  'cancelled',
  'lost',
  'refused',
  'expired',
]);
export type ExecutionState = z.infer<typeof ExecutionState>;

export const FINAL_STATES = ['succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'refused', 'expired'] as const;
export const FinalState = z.enum(FINAL_STATES);
export type FinalState = z.infer<typeof FinalState>;

export const isFinal = (state: ExecutionState): state is FinalState =>
  (FINAL_STATES as readonly string[]).includes(state);

const rank = (state: ExecutionState): number =>
  isFinal(state) ? 3 : state === 'running' ? 2 : state === 'delivered' ? 1 : 0;

export interface Standing {
  state: ExecutionState;
  /** True when the server decided a final state by itself after the execution had been offered to its node. */
  presumed: boolean;
}

/** What the node itself says. Null means: changes nothing. */
export const reportedByNode = (now: Standing, to: Exclude<ExecutionState, 'queued'>): Standing | null => {
  if (now.presumed) return { state: to, presumed: false };
  return rank(to) > rank(now.state) ? { state: to, presumed: false } : null;
};

/** What the server decides alone. `offered`: whether any poll has ever carried the execution. Null means: changes nothing. */
export const decidedByServer = (
  now: Standing,
  to: 'expired' | 'cancelled' | 'lost' | 'refused',
  offered: boolean,
): Standing | null => {
  if (isFinal(now.state)) return null;
  if (to === 'expired' && now.state !== 'queued') return null; // the node holds it: its own clock and report decide
  return { state: to, presumed: offered };
};

export const CommandState = z.enum(['pending', 'running', 'succeeded', 'partial', 'failed', 'cancelled', 'expired']);
export type CommandState = z.infer<typeof CommandState>;
export const isFinalCommand = (state: CommandState): boolean => state !== 'pending' && state !== 'running';

/** A command's state from the state of each node's last attempt. A retry that is to come counts as `queued`. */
export const commandStateOf = (lastAttempts: readonly ExecutionState[]): CommandState => {
  const every = (state: ExecutionState) => lastAttempts.every((one) => one === state);
  if (!lastAttempts.every(isFinal)) return every('queued') ? 'pending' : 'running';
  if (every('succeeded')) return 'succeeded';
  if (lastAttempts.includes('succeeded')) return 'partial';
  if (every('cancelled')) return 'cancelled';
  if (every('expired')) return 'expired';
  return 'failed';
};

/** Whether an execution that ended like this gets another attempt. `lost` is repeated only under at-least-once. */
export const mayRetry = (
  ended: FinalState,
  attempt: number,
  options: { maxRetries: number; delivery: 'at-most-once' | 'at-least-once' },
): boolean => {
  if (attempt >= maxAttempts(options)) return false;
  if (ended === 'failed' || ended === 'timed_out') return attempt <= options.maxRetries;
  return ended === 'lost' && options.delivery === 'at-least-once';
};

/** Under at-least-once a lost execution is repeated up to this often, whatever `max_retries` says. */
export const LOST_ATTEMPTS = 10;
export const maxAttempts = (options: { maxRetries: number; delivery: 'at-most-once' | 'at-least-once' }): number =>
  Math.max(1 + options.maxRetries, options.delivery === 'at-least-once' ? LOST_ATTEMPTS : 1);
