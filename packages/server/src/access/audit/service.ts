/** access/audit: who did what, as one hash chain in the database. mount.ts records every call through `hook`, other domains what they
 *  refuse through `refused`, and the chain is read, exported, signed and cut here. Invariant: entries have the numbers 1, 2, 3, …
 *  without a gap, each hashed with the one before, on however many processes. It must not hold a payload or a secret. */
import { type AuditEntry, AuditHead } from '@aegis/protocol/access/audit';
import type { SignedAuditHead } from '@aegis/protocol/access/audit-endpoints';
import { Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import { decodeCursor, encodeCursor } from '../../platform/paging.ts';
import type { Storage } from '../../tables.ts';
import { auditHook } from './hook.ts';
import { refusalCounter } from './refusals.ts';
import { type AuditFilter, type AuditRow, auditRepository, type NewEntry, type SignedRow } from './repository.ts';

const DAY_MS = 86_400_000;
/** Entries that one turn of retention removes at most, and that an export reads at once. */
const CUT_AT_ONCE = 5000;
const READ_AT_ONCE = 500;
const PageCursor = z.tuple([z.int().check(z.minimum(0))]);
const HeadCursor = z.tuple([z.int().check(z.minimum(0)), z.enum(['head', 'cut'])]);

export interface Paging {
  limit: number;
  cursor?: string | undefined;
}

export const auditService = (on: {
  storage: Storage;
  clock: Clock;
  log: Log;
  fleet: string;
  serverKey: KeyPair;
  retentionDays: number;
}) => {
  const { clock, log } = on;
  const repository = auditRepository(on.storage);
  const append = (entry: NewEntry) => repository.append(entry);
  const later = (entry: NewEntry): void => {
    append(entry).catch((err: unknown) => log.error({ err, action: entry.action }, 'an audit entry is not stored'));
  };
  const refusals = refusalCounter(clock, later);

  const signed = (kind: AuditHead['kind'], { seq, hash }: { seq: number; hash: string }): SignedRow => {
    const head: AuditHead = { fleet: on.fleet, kind, seq, hash, signed_at: isoTime(clock.now()) };
    return { seq, kind, envelope: JSON.stringify(signEnvelope(PAYLOAD_TYPES.auditHead, head, on.serverKey)) };
  };
  /** Signs the newest entry unless that is done. It goes to the log as well: another place, out of reach of who changes the database. */
  const signHead = async (): Promise<void> => {
    const head = await repository.head();
    if (head.seq === 0 || (await repository.newestSigned('head'))?.seq === head.seq) return;
    await repository.addSigned(signed('head', head));
    log.info({ audit_seq: head.seq, audit_hash: head.hash }, 'the audit chain is signed');
  };
  const cut = async (): Promise<void> => {
    const before = clock.now() - on.retentionDays * DAY_MS;
    for (;;) {
      const oldest = await repository.lastOld(before, CUT_AT_ONCE);
      if (!oldest) return;
      await repository.cut(signed('cut', oldest));
    }
  };

  return {
    append,
    hook: auditHook({ append, refusal: refusals.take, clock, log }),
    /** For what a domain refuses by itself; bounded as refused credentials are. */
    refused: refusals.take,
    signHead,
    cut,
    /** One turn of the loop: what was counted is written, what is old is cut, what is new is signed. */
    upkeep: async (): Promise<void> => {
      await cut();
      await signHead();
    },
    flush: () => refusals.flush(false),
    close: async (): Promise<void> => {
      refusals.flush(true);
      await signHead();
    },

    list: async ({ limit, cursor }: Paging, filter: AuditFilter) => {
      const before = cursor === undefined ? undefined : decodeCursor(cursor, PageCursor)[0];
      const rows = await repository.page(filter, limit, before);
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { items: rows.map(entryShown), next_cursor: last ? encodeCursor([last.seq]) : null };
    },
    heads: async ({ limit, cursor }: Paging) => {
      const rows = await repository.signed(limit, cursor === undefined ? undefined : decodeCursor(cursor, HeadCursor));
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { items: rows.flatMap(headShown), next_cursor: last ? encodeCursor([last.seq, last.kind]) : null };
    },

    /** The lines of an export, as docs/audit.md gives them. */
    export: async function* (trust: Readonly<Record<string, unknown>>): AsyncGenerator<object> {
      const head = await repository.head();
      yield { type: 'audit', version: 1, fleet: on.fleet, ...trust };
      const anchor = await repository.newestSigned('cut');
      if (anchor) yield { type: 'cut', envelope: envelopeOf(anchor) };
      for (let before: [number, SignedRow['kind']] | undefined; ; ) {
        const rows = await repository.signed(READ_AT_ONCE, before);
        for (const row of rows)
          if (row.kind === 'head' && row.seq <= head.seq) yield { type: 'head', envelope: envelopeOf(row) };
        const last = rows.at(-1);
        if (rows.length < READ_AT_ONCE || !last) break;
        before = [last.seq, last.kind];
      }
      for (let after = 0; ; ) {
        const rows = await repository.following(after, head.seq, READ_AT_ONCE);
        for (const row of rows) yield { type: 'entry', ...entryShown(row) };
        const last = rows.at(-1);
        if (rows.length < READ_AT_ONCE || !last) break;
        after = last.seq;
      }
      yield { type: 'end', seq: head.seq, hash: head.hash };
    },
  };
};
export type AuditService = ReturnType<typeof auditService>;

/** Rows may have been changed by somebody else: what cannot be read is shown as it is, and the hash tells. */
const entryShown = ({ at, targets, summary, ...row }: AuditRow): AuditEntry => ({
  ...row,
  at: timeOf(at),
  targets: listOf(targets),
  summary: listOf(summary),
});
const timeOf = (ms: number): string => (Math.abs(ms) <= 8.64e15 ? isoTime(ms) : String(ms));
const listOf = (text: string): string[] => {
  const list = jsonOf(text);
  return Array.isArray(list) ? list.map(String) : [text];
};
const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return null; // shown as something that no hash fits
  }
};
const envelopeOf = ({ envelope }: SignedRow): unknown => jsonOf(envelope);
const headShown = (row: SignedRow): SignedAuditHead[] => {
  const envelope = z.safeParse(Envelope, envelopeOf(row));
  if (!envelope.success) return [];
  const head = z.safeParse(AuditHead, jsonOf(Buffer.from(envelope.data.payload, 'base64').toString('utf8')));
  return head.success ? [{ ...head.data, envelope: envelope.data }] : [];
};
