import { createHash } from 'node:crypto';
import { MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { MAX_PAYLOAD_BYTES } from '@aegis/protocol/commands/carrier';
import { priorityRank, type Submission } from '@aegis/protocol/commands/submission';
import { validatePayload } from '@aegis/protocol/commands/types';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { CommandRow } from './tables.ts';

/** What was asked for, with one name for each thing, checked as far as it can be without looking at the fleet. */
export interface Request {
  targets: string[];
  dryRun: boolean;
  idempotencyKey: string | null;
  requestSha256: string;
  /** Of what an operator signed: the command's id, and the envelope. */
  id?: string;
  operatorDirective?: string;
  command: Pick<
    CommandRow,
    | 'command_type'
    | 'payload'
    | 'text_chars'
    | 'priority'
    | 'delivery'
    | 'max_retries'
    | 'retry_backoff_ms'
    | 'output_limit_bytes'
    | 'created_at'
    | 'scheduled_at'
    | 'expires_at'
    | 'deadline_at'
  > & { correlation_id: string | null };
}

/** @param headerKey the Idempotency-Key header
 *  @throws AegisError commands.unsupported_type, invalid_payload, no_target, idempotency_conflict */
export const readSubmission = (body: Submission, headerKey: string | undefined, now: number): Request => {
  const type = oneOf('command_type', body.command_type, 'verb', body.verb);
  if (type === undefined)
    throw new AegisError('commands.unsupported_type', "Say what to run: 'command_type' (or 'verb') is missing.");
  const targets = oneOf('targets', listed(body.targets), 'agent_targets', listed(body.agent_targets));
  if (targets === undefined)
    throw new AegisError('commands.no_target', "Say where to run it: 'targets' (or 'agent_targets') is missing.");
  const payload = validatePayload(type, oneOf('payload', body.payload, 'args', body.args));
  const text = JSON.stringify(payload);
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_PAYLOAD_BYTES)
    throw new AegisError(
      'commands.invalid_payload',
      `${type}: the payload has ${bytes} bytes; a command can carry ${MAX_PAYLOAD_BYTES}. Have the node fetch what is larger.`,
      { details: { field: 'payload' } },
    );
  const idempotencyKey = oneOf('the header Idempotency-Key', keyIn(headerKey), 'idempotency_key', body.idempotency_key);
  const scheduledAt = body.scheduled_at === undefined ? null : Date.parse(body.scheduled_at);
  const expiresAt = Math.max(now, scheduledAt ?? now) + body.ttl_sec * 1000;
  if (expiresAt - now > MAX_LIFETIME_MS)
    throw new AegisError(
      'commands.invalid_payload',
      "'scheduled_at' with 'ttl_sec' ends more than 7 days from now, longer than a node remembers what it obeyed. Choose an earlier start or a shorter time to live.",
      { details: { field: 'scheduled_at' } },
    );
  return {
    targets,
    dryRun: body.dry_run,
    idempotencyKey: idempotencyKey ?? null,
    requestSha256: hashOf({ ...body, idempotency_key: undefined }),
    command: {
      command_type: type,
      payload: text,
      text_chars: bytes + targets.reduce((sum, target) => sum + Buffer.byteLength(target) + 3, 0), // as they travel
      priority: priorityRank(body.priority),
      delivery: body.delivery,
      max_retries: body.max_retries,
      retry_backoff_ms: Math.round(body.retry_backoff_sec * 1000),
      output_limit_bytes: body.output_limit_bytes,
      correlation_id: body.correlation_id ?? null,
      created_at: now,
      scheduled_at: scheduledAt,
      expires_at: expiresAt,
      deadline_at: deadlineOf(payload, expiresAt),
    },
  };
};

const Limits = z.object({ timeout_sec: z.number(), grace_sec: z.number() });

/** It may start until it expires, and then runs into its own time limit. */
export const deadlineOf = (payload: unknown, expiresAt: number): number | null => {
  const limits = z.safeParse(Limits, payload);
  if (!limits.success || limits.data.timeout_sec === 0) return null;
  return expiresAt + Math.ceil((limits.data.timeout_sec + limits.data.grace_sec) * 1000);
};

const listed = (targets: string | string[] | undefined): string[] | undefined =>
  typeof targets === 'string' ? [targets] : targets;

const KEY = /^[\x20-\x7e]{1,255}$/;
const keyIn = (header: string | undefined): string | undefined => {
  if (header === undefined || KEY.test(header)) return header;
  throw new AegisError('http.malformed', 'The header Idempotency-Key takes 1 to 255 printable ASCII characters.');
};

const oneOf = <T>(nameA: string, a: T | undefined, nameB: string, b: T | undefined): T | undefined => {
  if (a !== undefined && b !== undefined && canonical(a) !== canonical(b))
    throw new AegisError(
      'commands.invalid_payload',
      `${nameA} and ${nameB} mean the same but differ. Give one of them.`,
      {
        details: { field: nameB },
      },
    );
  return a ?? b;
};

/** The same JSON whatever the order of keys. */
export const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
const hashOf = (value: unknown): string => createHash('sha256').update(canonical(value)).digest('hex');
