import { createHash } from 'node:crypto';
import * as z from 'zod/mini';

/** The audit chain: what an entry is, the bytes that are hashed, and the lines of an export. docs/audit.md describes all of it for
 *  whoever writes a verifier of their own; audit-verify.ts is ours. */

export const AUDIT_OUTCOMES = ['begun', 'ok', 'refused', 'failed'] as const;
export const AuditOutcome = z.enum(AUDIT_OUTCOMES);
export type AuditOutcome = z.infer<typeof AuditOutcome>;

const Hash = z.string().check(z.regex(/^[0-9a-f]{64}$/));

/** Every field but `hash` is hashed, as the text that stands here. */
export const AuditEntry = z.object({
  /** 1, 2, 3, … without gaps. */
  seq: z.number(),
  at: z.string(),
  request_id: z.string(),
  /** token, dev, node, local (on the data directory), server, or nobody. */
  actor_kind: z.string(),
  actor_id: z.nullable(z.string()),
  actor_name: z.nullable(z.string()),
  /** Of the key that the caller proved to have, where there was one. */
  key_id: z.nullable(z.string()),
  /** The id of the endpoint (see /openapi.json), or what the server did of itself. */
  action: z.string(),
  /** Ids and names of what was acted on; the last one counts those that are left out. */
  targets: z.array(z.string()),
  /** What was asked, as name=value, of fields that hold no payload and no secret. */
  summary: z.array(z.string()),
  address: z.nullable(z.string()),
  outcome: z.string(),
  code: z.nullable(z.string()),
  /** How many refusals this entry stands for. */
  count: z.number(),
  hash: z.string(),
});
export type AuditEntry = z.infer<typeof AuditEntry>;

/** What the server's key signs of the chain: `head` its newest entry at that time, `cut` the last one that retention removed. */
export const AuditHead = z.strictObject({
  fleet: z.string().check(z.minLength(1), z.maxLength(64)),
  kind: z.enum(['head', 'cut']),
  seq: z.int().check(z.minimum(1)),
  hash: Hash,
  signed_at: z.string(),
});
export type AuditHead = z.infer<typeof AuditHead>;

/** The hash before the first entry. */
export const AUDIT_GENESIS = '0'.repeat(64);
const DOMAIN = Buffer.from('aegis-audit-1\n');
const ABSENT = Buffer.from([0xff, 0xff, 0xff, 0xff]);

const counted = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
};
const text = (value: string | null): Buffer => (value === null ? ABSENT : counted(Buffer.from(value, 'utf8')));
const list = (values: readonly string[]): Buffer => counted(Buffer.concat(values.map((value) => text(value))));

/** Each field: its length in bytes (unsigned, 32 bits, big endian), then its UTF-8; FF FF FF FF alone for null. Numbers in decimal. A
 *  list is a field that holds its members, each written as a field. */
export const auditBytes = (entry: Omit<AuditEntry, 'hash'>): Buffer =>
  Buffer.concat([
    DOMAIN,
    text(String(entry.seq)),
    text(entry.at),
    text(entry.request_id),
    text(entry.actor_kind),
    text(entry.actor_id),
    text(entry.actor_name),
    text(entry.key_id),
    text(entry.action),
    list(entry.targets),
    list(entry.summary),
    text(entry.address),
    text(entry.outcome),
    text(entry.code),
    text(String(entry.count)),
  ]);

/** Hex SHA-256 of the 32 bytes of the hash before it, and the entry's bytes. */
export const auditHash = (previous: string, entry: Omit<AuditEntry, 'hash'>): string =>
  createHash('sha256').update(Buffer.from(previous, 'hex')).update(auditBytes(entry)).digest('hex');
