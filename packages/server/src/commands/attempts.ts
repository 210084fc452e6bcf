import { createHash } from 'node:crypto';

/** What the next attempt of an execution is called and when it may start. Pure. */

const MAX_BACKOFF_MS = 3_600_000;
const JITTER = 0.2;

/** Doubles with each attempt, at most an hour, and up to a fifth more so that a fleet does not retry in step. */
export const backoffMs = (firstMs: number, attempt: number, random: () => number): number =>
  Math.round(Math.min(MAX_BACKOFF_MS, firstMs * 2 ** (attempt - 1)) * (1 + JITTER * random()));

/** The id of the attempt after `executionId`: a UUIDv7 with the same time, its random bits made from the id before. A server
 *  restored from an older backup so makes the same id once more, and what the node knows of that attempt finds its row; and a
 *  retry keeps its first attempt's place in the queue. */
export const nextAttemptId = (executionId: string): string => {
  const digest = createHash('sha256').update(`aegis-attempt-1:${executionId}`).digest('hex');
  const variant = (8 + (Number.parseInt(digest.charAt(3), 16) & 3)).toString(16);
  return `${executionId.slice(0, 14)}7${digest.slice(0, 3)}-${variant}${digest.slice(4, 7)}-${digest.slice(7, 19)}`;
};
