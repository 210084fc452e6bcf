import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { NextCursor, Page } from '../paging.ts';
import { AuditEntry, AuditHead, AuditOutcome } from './audit.ts';
import { Envelope } from './dsse.ts';

const tag = 'access';
const Term = z.optional(z.string().check(z.minLength(1), z.maxLength(256)));
const Time = z.optional(z.iso.datetime({ offset: true }));

export const listAudit = endpoint({
  id: 'listAudit',
  door: 'api',
  method: 'GET',
  path: '/api/v1/audit',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Who did what, newest first; with Accept: application/x-ndjson the whole chain to verify, oldest first',
  query: z.object({
    ...Page,
    /** Id or name of who called. */
    actor: Term,
    action: Term,
    outcome: z.optional(AuditOutcome),
    /** One of an entry's targets. */
    target: Term,
    address: Term,
    request_id: Term,
    since: Time,
    until: Time,
  }),
  response: z.object({ items: z.array(AuditEntry), next_cursor: NextCursor }),
  produces: ['application/x-ndjson'],
});

export const SignedAuditHead = z.object({ ...AuditHead.shape, envelope: Envelope });
export type SignedAuditHead = z.infer<typeof SignedAuditHead>;
export const listAuditHeads = endpoint({
  id: 'listAuditHeads',
  door: 'api',
  method: 'GET',
  path: '/api/v1/audit/heads',
  caller: 'admin',
  scope: 'fleet',
  tag,
  summary: 'Heads of the audit chain that the server key signed, newest first; keep one elsewhere',
  query: z.object({ ...Page }),
  response: z.object({ items: z.array(SignedAuditHead), next_cursor: NextCursor }),
});
