import type { KeyObject } from 'node:crypto';
import { openEnvelopeInPool, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import { type PostedReport, Report } from '@aegis/protocol/commands/carrier';
import { isFinal } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { PollingNode } from './dispatch.ts';

/** Final reports of nodes with a key count only as far as the node signed them. */

export interface CheckedReport {
  /** For a signed report the values that were signed, whatever was posted beside them. */
  report: Report;
  signed: boolean;
}

/** The raw public key of an active node; null for one without. */
export type PublicKeyOf = (nodeUid: string) => Promise<Uint8Array | null>;

const KEYS_KEPT = 10_000;

export const reportChecker = (publicKeyOf: PublicKeyOf) => {
  const keys = new Map<string, KeyObject>();
  const keyOf = async (uid: string, keyId: string): Promise<KeyObject> => {
    const known = keys.get(keyId);
    if (known) return known;
    const raw = await publicKeyOf(uid);
    if (!raw) throw badSignature('the server does not know its key');
    const key = publicKeyFromRaw(raw);
    if (keys.size >= KEYS_KEPT) keys.delete(keys.keys().next().value ?? '');
    keys.set(keyId, key);
    return key;
  };

  /** @throws AegisError access.bad_signature, commands.report_mismatch */
  return async (node: PollingNode, posted: PostedReport): Promise<CheckedReport> => {
    if (!isFinal(posted.state) || node.keyId === null) return { report: posted, signed: false };
    if (!posted.report) throw badSignature('it has none');
    const key = await keyOf(node.uid, node.keyId);
    const { payload, signed } = await openEnvelopeInPool(posted.report, PAYLOAD_TYPES.report, node.keyId, key);
    if (!signed) throw badSignature("it is not the node key's");
    const report = parsed(payload, posted);
    const same = (['command_id', 'execution_id', 'attempt', 'state'] as const).every(
      (field) => report[field] === posted[field],
    );
    if (!same)
      throw new AegisError(
        'commands.report_mismatch',
        'The signed report is about another execution, attempt or state than the posted one. Send both alike.',
      );
    return { report, signed: true };
  };
};
export type ReportChecker = ReturnType<typeof reportChecker>;

const badSignature = (why: string): AegisError =>
  new AegisError(
    'access.bad_signature',
    `The signature of this final report is refused: ${why}. Sign its fields with the node's key (DSSE) in 'report'.`,
  );

/** A daemon signs and posts the same fields, and those that were posted have been checked: the same text needs no second look. */
const parsed = (payload: Buffer, posted: PostedReport): Report => {
  const { report: _envelope, chunks: _chunks, ...fields } = posted;
  if (payload.equals(Buffer.from(JSON.stringify(fields)))) return fields;
  try {
    const result = z.safeParse(Report, parseStrictJson(payload.toString('utf8')));
    if (result.success) return result.data;
  } catch {
    // not strict JSON: refused like a report of another shape
  }
  throw new AegisError(
    'commands.report_mismatch',
    'What was signed is not a report. Sign the fields of the report as JSON.',
  );
};
