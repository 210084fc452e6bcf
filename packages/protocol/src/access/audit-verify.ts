import type { KeyObject } from 'node:crypto';
import * as z from 'zod/mini';
import { AUDIT_GENESIS, AuditEntry, AuditHead, auditHash } from './audit.ts';
import { Envelope, openEnvelope, PAYLOAD_TYPES } from './dsse.ts';
import { parseStrictJson } from './strict-json.ts';
import { keysFor, openTrustBundle, type TrustBundle } from './trust-bundle.ts';

/** Verifies an export of the audit chain line by line, by nothing but the export, a pinned root and heads that somebody kept. */

export const AUDIT_FINDINGS = [
  'unreadable',
  'untrusted',
  'changed',
  'missing',
  'order',
  'head_mismatch',
  'bad_head',
  'truncated',
  'incomplete',
] as const;
export interface AuditFinding {
  what: (typeof AUDIT_FINDINGS)[number];
  /** Line of the export, from 1; null for what no line shows. */
  line: number | null;
  seq: number | null;
  message: string;
}
export interface AuditVerdict {
  intact: boolean;
  fleet: string | null;
  root_fingerprint: string | null;
  /** Number, first and last of the entries, and the last one's hash. */
  entries: number;
  first_seq: number | null;
  last_seq: number | null;
  last_hash: string | null;
  /** The last entry that retention removed, by its signed anchor. */
  cut_seq: number | null;
  /** Signed heads that fit, and the newest of them: what came after it is not signed yet. */
  heads: number;
  signed_seq: number | null;
  /** Kept heads that fit; those older than what retention cut cannot be compared. */
  kept: number;
  kept_too_old: number;
  findings: AuditFinding[];
}

const Header = z.strictObject({
  type: z.literal('audit'),
  version: z.literal(1),
  fleet: z.string(),
  trust_bundle: Envelope,
  root_fingerprint: z.string(),
});
const Line = z.discriminatedUnion('type', [
  Header,
  z.strictObject({ type: z.literal('cut'), envelope: Envelope }),
  z.strictObject({ type: z.literal('head'), envelope: Envelope }),
  z.strictObject({ type: z.literal('entry'), ...AuditEntry.shape }),
  z.strictObject({ type: z.literal('end'), seq: z.number(), hash: z.string() }),
]);
type Line = z.infer<typeof Line>;

/** More than this is a broken export; the count goes on in the last finding. */
const MAX_FINDINGS = 100;

/** The envelope in a head that was kept: a line of an export, an item of GET /api/v1/audit/heads, or the envelope alone.
 *  @throws SyntaxError when it is none of these */
export const keptAuditHead = (text: string): Envelope => {
  const value: unknown = JSON.parse(text);
  const inner = typeof value === 'object' && value !== null && 'envelope' in value ? value.envelope : value;
  const envelope = z.safeParse(Envelope, inner);
  if (!envelope.success) throw new SyntaxError('it holds no signed head of an audit chain');
  return envelope.data;
};

export const auditVerifier = (options: { rootFingerprint?: string | null; kept?: readonly Envelope[] } = {}) => {
  const findings: AuditFinding[] = [];
  let suppressed = 0;
  const find = (what: AuditFinding['what'], line: number | null, seq: number | null, message: string): void => {
    if (findings.length < MAX_FINDINGS) findings.push({ what, line, seq, message });
    else suppressed += 1;
  };

  let lines = 0;
  let header: z.infer<typeof Header> | null = null;
  /** Server keys of the bundle, replaced ones too: what those signed stands as long as one in force signed after them. */
  let keys: ReadonlyMap<string, KeyObject> = new Map();
  let inForce: ReadonlyMap<string, KeyObject> = new Map();
  let isSignedInForce = false;
  /** Heads by the entry that they sign. */
  const heads = new Map<number, { hash: string; line: number | null; kept: boolean; inForce: boolean }[]>();
  let entries = 0;
  let first: number | null = null;
  let seq = 0;
  let hash = AUDIT_GENESIS;
  let cutSeq: number | null = null;
  let end: { seq: number; hash: string } | null = null;
  let fitting = 0;
  let keptFitting = 0;
  let keptTooOld = 0;
  let signedSeq: number | null = null;

  const opened = (envelope: Envelope, line: number | null): (AuditHead & { inForce: boolean }) | null => {
    const { payload, signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.auditHead, keys);
    const where = line === null ? 'A kept head' : 'This signed head';
    if (signedBy.length === 0) {
      find('bad_head', line, null, `${where} is not signed by a server key of the fleet.`);
      return null;
    }
    const head = z.safeParse(AuditHead, jsonOf(payload.toString('utf8')));
    if (head.success && head.data.fleet === header?.fleet)
      return { ...head.data, inForce: signedBy.some((id) => inForce.has(id)) };
    find('bad_head', line, null, `${where} is no head of this fleet's audit chain.`);
    return null;
  };
  const expectHead = (head: AuditHead & { inForce: boolean }, line: number | null): void => {
    const known = heads.get(head.seq) ?? [];
    heads.set(head.seq, [...known, { hash: head.hash, line, kept: line === null, inForce: head.inForce }]);
  };
  /** Compares what was signed of an entry with what it has now. */
  const compareHeads = (): void => {
    for (const head of heads.get(seq) ?? []) {
      if (head.hash !== hash) {
        const whose = head.kept ? 'the head that was kept' : `the signed head in line ${head.line}`;
        find('head_mismatch', lines, seq, `Entry ${seq} is not the one of ${whose}: the chain was written anew.`);
        continue;
      }
      if (head.kept) keptFitting += 1;
      else fitting += 1;
      if (head.inForce) isSignedInForce = true;
      signedSeq = Math.max(signedSeq ?? 0, seq);
    }
    heads.delete(seq);
  };

  const start = (line: z.infer<typeof Header>): void => {
    header = line;
    try {
      const pinned = options.rootFingerprint ?? line.root_fingerprint;
      const { bundle } = openTrustBundle(line.trust_bundle, pinned, 0); // it may have expired since
      if (bundle.fleet !== line.fleet) find('untrusted', lines, null, 'The trust bundle is of another fleet.');
      else {
        keys = everServed(bundle);
        inForce = keysFor(bundle, 'serve');
      }
    } catch (error) {
      find('untrusted', lines, null, error instanceof Error ? error.message : 'The trust bundle is refused.');
    }
    for (const envelope of options.kept ?? []) {
      const head = opened(envelope, null);
      if (head) expectHead(head, null);
    }
  };
  const cut = (envelope: Envelope): void => {
    const anchor = opened(envelope, lines);
    if (!anchor) return;
    if (anchor.kind !== 'cut' || entries > 0 || cutSeq !== null) {
      find('order', lines, anchor.seq, 'This anchor does not stand before the entries, or is none.');
      return;
    }
    cutSeq = anchor.seq;
    seq = anchor.seq;
    hash = anchor.hash;
    compareHeads();
  };
  const entry = (line: Extract<Line, { type: 'entry' }>): void => {
    const { type: _, hash: stored, ...fields } = line;
    entries += 1;
    first ??= fields.seq;
    if (fields.seq <= seq) find('order', lines, fields.seq, `Entry ${fields.seq} stands after entry ${seq}.`);
    else if (fields.seq > seq + 1) {
      const gone = fields.seq === seq + 2 ? `Entry ${seq + 1} is` : `Entries ${seq + 1} to ${fields.seq - 1} are`;
      find('missing', lines, fields.seq, `${gone} missing before this one.`);
      for (const gap of heads.keys()) if (gap > seq && gap < fields.seq) heads.delete(gap);
    } else if (!isHash(stored) || auditHash(hash, fields) !== stored)
      find('changed', lines, fields.seq, `Entry ${fields.seq}, or the hash of the one before it, was changed.`);
    seq = Math.max(seq, fields.seq);
    hash = isHash(stored) ? stored : AUDIT_GENESIS;
    compareHeads();
  };

  return {
    line: (text: string): void => {
      lines += 1;
      const parsed = z.safeParse(Line, strictJsonOf(text));
      if (!parsed.success) {
        find('unreadable', lines, null, 'This line is not one of an audit export.');
        return;
      }
      const line = parsed.data;
      if ((line.type === 'audit') !== (lines === 1) || end !== null)
        find('order', lines, null, `A line of type '${line.type}' does not belong here.`);
      else if (line.type === 'audit') start(line);
      else if (line.type === 'cut') cut(line.envelope);
      else if (line.type === 'entry') entry(line);
      else if (line.type === 'end') end = line;
      else {
        const head = opened(line.envelope, lines);
        if (head && (head.kind !== 'head' || entries > 0))
          find('order', lines, head.seq, 'This head stands elsewhere.');
        else if (head && head.seq > (cutSeq ?? 0)) expectHead(head, lines);
        else if (head && head.seq === cutSeq && head.hash !== hash)
          find('head_mismatch', lines, head.seq, 'The anchor of what was cut is not the entry that was signed here.');
      }
    },
    /** Whether the first line says that this is an export at all. */
    isExport: (): boolean => header !== null,
    end: (): AuditVerdict => {
      const last = entries > 0 || cutSeq !== null ? seq : null;
      if (!end)
        find(
          'incomplete',
          null,
          last,
          'The last line of the export is missing: it broke off, or was cut. Export again.',
        );
      else if (end.seq > seq)
        find('truncated', lines, seq, `The chain ends with entry ${end.seq}; entry ${seq} is the last one here.`);
      else if (end.seq !== seq || end.hash !== hash)
        find('head_mismatch', lines, seq, 'The last entry is not the one that the database calls the newest.');
      for (const [signed, expected] of heads)
        for (const head of expected) {
          if (signed < (cutSeq ?? 0)) keptTooOld += 1;
          else {
            const whose = head.kept ? 'A head that was kept' : 'A signed head';
            find('truncated', head.line, signed, `${whose} shows that entry ${signed} was there, and it is gone.`);
          }
        }
      if (fitting > 0 && !isSignedInForce)
        find(
          'bad_head',
          null,
          signedSeq,
          "No head is signed by a server key that is in force: a replaced one could be anybody's by now.",
        );
      if (suppressed > 0)
        findings.push({
          what: 'unreadable',
          line: null,
          seq: null,
          message: `${suppressed} more findings are not listed.`,
        });
      return {
        intact: findings.length === 0,
        fleet: header?.fleet ?? null,
        root_fingerprint: header?.root_fingerprint ?? null,
        entries,
        first_seq: first,
        last_seq: last,
        last_hash: last === null ? null : hash,
        cut_seq: cutSeq,
        heads: fitting,
        signed_seq: signedSeq,
        kept: keptFitting,
        kept_too_old: keptTooOld,
        findings,
      };
    },
  };
};

const everServed = (bundle: TrustBundle): Map<string, KeyObject> =>
  keysFor({ ...bundle, keys: bundle.keys.map((key) => ({ ...key, state: 'active' as const })) }, 'serve');

const isHash = (text: string): boolean => /^[0-9a-f]{64}$/.test(text);
const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // fits no schema
  }
};
const strictJsonOf = (text: string): unknown => {
  try {
    return parseStrictJson(text);
  } catch {
    return undefined; // fits no schema
  }
};
