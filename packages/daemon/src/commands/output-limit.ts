import { GAP_REASONS } from '@aegis/protocol/commands/carrier';

/** What to do next with one stream of one execution. Pure.
 *
 *  Without a limit everything is sent in order. With one, the first `limit − tail` bytes (the head) are sent as they come, the last
 *  `tail` bytes stay on disk until the end, and segments between are unlinked unsent; at the end one gap stands for them. */

export interface SegmentExtent {
  offset: number;
  bytes: number;
  /** No byte will be added. */
  complete: boolean;
}

export interface OutputState {
  /** Next offset that the server expects. Authoritative, also where it is lower or higher than what we believed. */
  next: number;
  /** On disk now, by offset. */
  segments: readonly SegmentExtent[];
  /** What the command wrote in all, once it has ended. */
  total: number | null;
  /** 0 = none. */
  limitBytes: number;
  spoolBytes: number;
}

export type OutputStep =
  | { kind: 'bytes'; segment: number; position: number; offset: number; length: number }
  | { kind: 'gap'; offset: number; length: number; reason: string };

export interface OutputPlan {
  /** Offsets of segments that may be unlinked now. */
  drop: number[];
  /** Null when there is nothing to send now. */
  send: OutputStep | null;
  /** Nothing is left to send, now or later. */
  finished: boolean;
}

export const tailBytesOf = (limitBytes: number, spoolBytes: number): number =>
  limitBytes === 0 ? 0 : Math.min(Math.floor(limitBytes / 2), Math.floor(spoolBytes / 2));

export const planOutput = (
  { next, segments, total, limitBytes, spoolBytes }: OutputState,
  maxBytes: number,
): OutputPlan => {
  const last = segments.at(-1);
  const written = last ? last.offset + last.bytes : 0;
  const tail = tailBytesOf(limitBytes, spoolBytes);
  const headEnd = limitBytes === 0 ? Number.POSITIVE_INFINITY : limitBytes - tail;
  /** Where the tail begins: rises while the command writes, fixed when it has ended. */
  const tailStart = (total ?? written) - tail;

  const drop = segments
    .filter((one) => {
      const end = one.offset + one.bytes;
      const acknowledged = end <= next;
      const middle = next >= Math.min(headEnd, end) && end <= tailStart && end > headEnd;
      return one.complete && one.bytes > 0 && (acknowledged || middle);
    })
    .map((one) => one.offset);

  const end = total ?? written;
  if (next >= end) return { drop, send: null, finished: total !== null };
  if (next >= headEnd && next < tailStart) {
    if (total === null) return { drop, send: null, finished: false };
    return {
      drop,
      send: { kind: 'gap', offset: next, length: tailStart - next, reason: GAP_REASONS.limit },
      finished: false,
    };
  }
  if (next >= headEnd && total === null) return { drop, send: null, finished: false };
  // [next, regionEnd) is to be sent: the head, or after the end the tail, or both where nothing lies between.
  const beforeMiddle = next < headEnd && (total === null || headEnd < tailStart);
  const regionEnd = beforeMiddle ? Math.min(headEnd, end) : end;
  return { drop, send: sendFrom(next, regionEnd, segments, total, maxBytes), finished: false };
};

const sendFrom = (
  next: number,
  regionEnd: number,
  segments: readonly SegmentExtent[],
  total: number | null,
  maxBytes: number,
): OutputStep | null => {
  const index = segments.findIndex((one) => one.offset <= next && next < one.offset + one.bytes);
  const found = segments[index];
  if (found) {
    const length = Math.min(found.offset + found.bytes, regionEnd, next + maxBytes) - next;
    return { kind: 'bytes', segment: index, position: next - found.offset, offset: next, length };
  }
  const later = segments.find((one) => one.offset > next);
  if (!later && total === null) return null; // nothing new yet
  const first = segments[0];
  // Before the first segment: acknowledged once and unlinked, so the server lost it. Within: the disk lost it in a crash.
  const reason = !first || next < first.offset ? GAP_REASONS.freed : GAP_REASONS.lost;
  return { kind: 'gap', offset: next, length: Math.min(later?.offset ?? regionEnd, regionEnd) - next, reason };
};
