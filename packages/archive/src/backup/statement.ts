import { Envelope, openEnvelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { type KeyPair, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import { RunTotals } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** The statement of a backup: what its node says, and signs, of the objects that it wrote. It lies beside them as `statement.json`, one DSSE
 *  envelope as JSON without spaces, and is written last: a run without one is not complete. */

export const STATEMENT_FORMAT = 'aegis-backup-1';

const StatedObject = z.strictObject({
  /** The object's name below the prefix. */
  name: z.string().check(z.minLength(1), z.maxLength(128)),
  bytes: z.int().check(z.minimum(0)),
  sha256: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
});
export const Statement = z.strictObject({
  format: z.literal(STATEMENT_FORMAT),
  run_id: z.uuid(),
  config_id: z.uuid(),
  node_uid: z.nullable(z.uuid()),
  attempt: z.int().check(z.positive()),
  /** Where the objects lie, as the server's grant said it; ends with a slash. */
  prefix: z.string().check(z.maxLength(1024)),
  /** By the node's clock. */
  started_at: z.iso.datetime(),
  finished_at: z.iso.datetime(),
  state: z.enum(['completed', 'completed_with_errors']),
  encrypted: z.boolean(),
  archive: StatedObject,
  manifest: StatedObject,
  totals: RunTotals,
});
export type Statement = z.infer<typeof Statement>;

/** What lies at the destination, and goes with the run's end. */
export const signStatement = (statement: Statement, key: KeyPair): Envelope =>
  signEnvelope(PAYLOAD_TYPES.manifest, statement, key);
export const statementBytes = (envelope: Envelope): Buffer => Buffer.from(JSON.stringify(envelope), 'utf8');

/** @param keys key id → raw Ed25519 public key, those that the caller trusts
 *  @throws AegisError backups.untrusted_node, backups.bad_statement */
export const openStatement = (
  given: Envelope | Buffer,
  keys: ReadonlyMap<string, Buffer>,
): { statement: Statement; signedBy: string } => {
  const envelope = Buffer.isBuffer(given) ? envelopeIn(given) : given;
  const { payload, signedBy } = openEnvelope(
    envelope,
    PAYLOAD_TYPES.manifest,
    new Map([...keys].map(([id, raw]) => [id, publicKeyFromRaw(raw)])),
  );
  const signer = signedBy[0];
  if (signer === undefined) {
    if (envelope.payloadType === PAYLOAD_TYPES.manifest && envelope.signatures.some(({ keyid }) => keys.has(keyid)))
      throw bad('its signature is not good: it was altered, or made with another key');
    const by = envelope.signatures.map(({ keyid }) => keyid.slice(0, 64)).join(', ');
    throw new AegisError(
      'backups.untrusted_node',
      `The backup's statement is signed by ${by}, which is no key of a node that is trusted here. If you know the node, trust it ('aegis nodes trust').`,
      { details: { key_ids: envelope.signatures.map(({ keyid }) => keyid) } },
    );
  }
  try {
    return { statement: z.parse(Statement, parseStrictJson(payload.toString('utf8'))), signedBy: signer };
  } catch {
    throw bad('what its node signed is not a statement of a version that is known here');
  }
};

const envelopeIn = (bytes: Buffer): Envelope => {
  try {
    return z.parse(Envelope, parseStrictJson(bytes.toString('utf8')));
  } catch {
    throw bad('statement.json is not a DSSE envelope');
  }
};
const bad = (why: string): AegisError =>
  new AegisError('backups.bad_statement', `The backup's statement cannot be used: ${why}. Nothing was taken from it.`);
