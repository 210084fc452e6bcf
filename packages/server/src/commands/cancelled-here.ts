import { DEFAULTS } from '@aegis/protocol/commands/submission';
import * as z from 'zod/mini';
import type { ExecutionRow } from './tables.ts';

/** A cancelled execution counts as ended before its node has ended it: what the processes still write, and how they really end,
 *  comes within the command's grace. So long, and not for ever, its followers stay. */

const ON_THE_WAY_MS = 5000;
const Graced = z.object({ grace_sec: z.number() });

const graceMs = (payload: string): number => {
  const read = Graced.safeParse(JSON.parse(payload));
  return (read.success ? read.data.grace_sec : DEFAULTS.graceSec) * 1000;
};

/** For how long from now on the node's own word is still expected; 0 when it is there or nothing was cancelled. */
export const nodeStillEndsMs = (
  row: Pick<ExecutionRow, 'state' | 'presumed' | 'cancel_at'>,
  payload: string,
  now: number,
): number => {
  if (row.presumed === 0 || row.state !== 'cancelled' || row.cancel_at === null) return 0;
  const most = graceMs(payload) + ON_THE_WAY_MS;
  return Math.min(Math.max(row.cancel_at + most - now, 0), most);
};
