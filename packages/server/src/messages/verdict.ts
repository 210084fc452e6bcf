import type { AegisError, ErrorCode } from '@aegis/protocol/errors';
import { MAX_REPLY_BYTES, MessageReply } from '@aegis/protocol/messages/message';
import * as z from 'zod/mini';
import type { MessageRow } from './repository.ts';

/** What follows from a message's row, the time and what its node answered. Pure. */

/** What is stored, encrypted, of how it ended. */
export const Outcome = z.union([MessageReply, z.strictObject({ message: z.string() })]);
export type Outcome = z.infer<typeof Outcome>;

export interface Ending {
  status: 'delivered' | 'failed' | 'expired';
  code: ErrorCode | null;
  /** Null where the code says it all. */
  outcome: Outcome | null;
}
/** The node cannot take it now, and says so: it stays queued. */
export interface Postponed {
  againInMs: number | null;
}
export type Verdict = { end: Ending } | Postponed;

export const endedBy = (status: Ending['status'], code: ErrorCode): Ending => ({ status, code, outcome: null });

/** Before it is given to the node: a row that is `sent` already got no answer that time. */
export const claimOf = (
  row: Pick<MessageRow, 'status' | 'expires_at' | 'retry_count' | 'max_retries'>,
  now: number,
): { end: Ending } | { retry_count: number } => {
  if (now >= row.expires_at) return { end: endedBy('expired', 'messages.expired') };
  if (row.status !== 'sent') return { retry_count: row.retry_count };
  return row.retry_count >= row.max_retries
    ? { end: endedBy('failed', 'messages.no_answer') }
    : { retry_count: row.retry_count + 1 };
};

const PASSING: ReadonlySet<ErrorCode> = new Set([
  'http.unavailable',
  'http.rate_limited',
  'journal.full',
  'journal.failed',
]);
const MAX_ERROR_CHARS = 1000;

export const verdictOf = (answer: { result: unknown } | { error: AegisError }): Verdict => {
  if ('error' in answer) {
    const { code, message, retryAfterSec } = answer.error;
    if (PASSING.has(code)) return { againInMs: retryAfterSec === undefined ? null : retryAfterSec * 1000 };
    return { end: { status: 'failed', code, outcome: { message: message.slice(0, MAX_ERROR_CHARS).toWellFormed() } } };
  }
  const reply = z.safeParse(MessageReply, answer.result ?? { reply: null });
  if (!reply.success || (reply.data.reply !== null && Buffer.byteLength(reply.data.reply) > 2 * MAX_REPLY_BYTES))
    return { end: endedBy('failed', 'messages.bad_answer') };
  return { end: { status: 'delivered', code: null, outcome: reply.data } };
};

const SENTENCES: Readonly<Partial<Record<ErrorCode, string>>> = {
  'messages.expired': 'The node did not take the message before it expired, or took it and did not answer.',
  'messages.no_answer':
    'The node was given the message, as often as it is tried, and did not answer. It may have acted on it.',
  'messages.bad_answer': 'What the node answered is not what docs/messages.md says. It may have acted on the message.',
  'messages.unreadable':
    "The stored message cannot be decrypted: it was changed in the database, or the data directory's secrets are others than when it was sent. Send it again.",
  'channel.no_handler':
    "The node has no hook for this channel. Name one in its configuration ('hooks'), or another channel.",
  'nodes.retired': 'The node was retired before it took the message.',
};

/** For people and programs: what it says of an error that its node, or this server, gave as the reason. */
export const errorOf = (code: ErrorCode, outcome: Outcome | null): { code: ErrorCode; message: string } => ({
  code,
  message: outcome && 'message' in outcome ? outcome.message : (SENTENCES[code] ?? 'The message failed.'),
});
