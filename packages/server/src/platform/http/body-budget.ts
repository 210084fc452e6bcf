import type { IncomingHttpHeaders } from 'node:http';
import { type Readable, Transform } from 'node:stream';
import { AegisError } from '@aegis/protocol/errors';
import { fewAtATime } from '../few-at-a-time.ts';
import { type OneAtATime, oneAtATime } from '../one-at-a-time.ts';

/** How many bytes of request bodies the server holds at once, over all callers and for each: what is declared counts before any of
 *  it is read, what is not declared as it comes, until nobody works on it any more. Small bodies count but are never refused for
 *  their bytes: acknowledgements, reports and submissions go on while uploads wait. */

/** One request's share. */
export interface BodyLease {
  /** Raises the share to `bytes`. @throws AegisError http.unavailable, http.rate_limited */
  hold(bytes: number): void;
  /** Somebody works on the body: from now on a caller that hangs up frees nothing. */
  begin(): void;
  hungUp(): void;
  /** A packed body is unpacked within it: how large it gets is known, and held, only when it has grown. One of a caller at a time,
   *  so that none stands before the others with many. */
  unpacking: OneAtATime;
  release(): void;
}
export interface BodyBudget {
  /** @param caller null for one who is not bounded by himself. @throws AegisError http.rate_limited */
  lease(caller: string | null): BodyLease;
}

const SMALL_BYTES = 64 * 1024;
const LARGE_PER_CALLER = 8;
/** Of the budget, though never less than the largest body, packed and unpacked. */
const SHARE_PER_CALLER = 1 / 4;
const LEAST_SHARE_BYTES = 16 * 1024 * 1024;
/** Of any size. A daemon has sixteen connections. */
const BODIES_PER_CALLER = 256;
const RETRY_SEC = 1;
/** Each up to its route's limit beyond the budget; as many as libuv has threads. */
const UNPACKED_AT_ONCE = 4;

export const bodyBudget = (totalBytes: number): BodyBudget => {
  let used = 0;
  const bodies = new Map<string, number>();
  const large = new Map<string, number>();
  const bytesOf = new Map<string, number>();
  const few = fewAtATime(UNPACKED_AT_ONCE);
  const turns = new Map<string, OneAtATime>();
  const share = Math.max(LEAST_SHARE_BYTES, totalBytes * SHARE_PER_CALLER);
  const addBytes = (caller: string | null, bytes: number): void => {
    used += bytes;
    if (caller === null) return;
    const sum = (bytesOf.get(caller) ?? 0) + bytes;
    if (sum > 0) bytesOf.set(caller, sum);
    else bytesOf.delete(caller);
  };
  return {
    lease: (caller) => {
      takeOne(bodies, caller, BODIES_PER_CALLER);
      let held = 0;
      let begun = false;
      let over = false;
      const release = (): void => {
        if (over) return;
        over = true;
        addBytes(caller, -held);
        giveBack(bodies, caller);
        if (caller !== null && !bodies.has(caller)) turns.delete(caller);
        if (held > SMALL_BYTES) giveBack(large, caller);
      };
      return {
        hold: (bytes) => {
          if (over || bytes <= held) return;
          if (bytes > totalBytes) throw neverFits(totalBytes);
          const more = bytes - held;
          const own = caller === null ? 0 : (bytesOf.get(caller) ?? 0);
          if (bytes > SMALL_BYTES && caller !== null && own + more > share) throw tooManyAtOnce();
          if (bytes > SMALL_BYTES && used + more > totalBytes) throw busy();
          if (bytes > SMALL_BYTES && held <= SMALL_BYTES) takeOne(large, caller, LARGE_PER_CALLER);
          addBytes(caller, more);
          held = bytes;
        },
        begin: () => {
          begun = true;
        },
        hungUp: () => {
          if (!begun) release();
        },
        unpacking: (work) => {
          if (caller === null) return few(work);
          const turn = turns.get(caller) ?? oneAtATime();
          turns.set(caller, turn);
          return turn(() => few(work));
        },
        release,
      };
    },
  };
};

const takeOne = (counts: Map<string, number>, caller: string | null, atMost: number): void => {
  if (caller === null) return;
  const count = counts.get(caller) ?? 0;
  if (count >= atMost) throw tooManyAtOnce();
  counts.set(caller, count + 1);
};
const giveBack = (counts: Map<string, number>, caller: string | null): void => {
  if (caller === null) return;
  const left = (counts.get(caller) ?? 1) - 1;
  if (left > 0) counts.set(caller, left);
  else counts.delete(caller);
};

const tooManyAtOnce = () =>
  new AegisError(
    'http.rate_limited',
    'Too many requests with a body, or too large ones, at once. Wait for some to be answered.',
    { retryAfterSec: RETRY_SEC },
  );
const neverFits = (totalBytes: number) =>
  new AegisError(
    'http.too_large',
    `The body is larger than all that this server takes at once (http.body_budget_bytes: ${totalBytes}). Raise that setting, or send less.`,
  );
const busy = () =>
  new AegisError('http.unavailable', 'The server is busy receiving from others. Send the request again.', {
    retryAfterSec: RETRY_SEC,
  });

/** Null without a body; 0 when it comes in chunks and nobody knows how long it is. */
export const declaredBytes = (headers: IncomingHttpHeaders): number | null => {
  if (headers['transfer-encoding'] !== undefined) return 0;
  const length = Number(headers['content-length'] ?? 0);
  return length > 0 ? length : null;
};

/** A body of unknown length, held as it arrives. */
export const countedBody = (body: Readable, lease: BodyLease): Readable => {
  let bytes = 0;
  const counted = new Transform({
    transform: (chunk: Buffer, _, done) => {
      bytes += chunk.length;
      try {
        lease.hold(bytes);
        done(null, chunk);
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    },
  });
  body.once('error', (error) => counted.destroy(error));
  return body.pipe(counted);
};
