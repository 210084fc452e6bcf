import { sign } from 'node:crypto';
import { preAuthEncoding, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { openStatement, STATEMENT_FORMAT, type Statement, signStatement, statementBytes } from './statement.ts';

const KEY = generateKeyPair();
const OTHER = generateKeyPair();
const SHA = 'a'.repeat(64);
const TRUSTED = new Map([[KEY.keyId, KEY.publicRaw]]);
const STATEMENT: Statement = {
  format: STATEMENT_FORMAT,
  run_id: '0190a0b0-0000-7000-8000-000000000001',
  config_id: '0190a0b0-0000-7000-8000-000000000002',
  node_uid: '0190a0b0-0000-7000-8000-000000000003',
  attempt: 1,
  prefix: 'p/0190a0b0-0000-7000-8000-000000000003/',
  started_at: '2026-11-21T00:00:00.000Z',
  finished_at: '2026-11-21T00:01:00.000Z',
  state: 'completed',
  encrypted: true,
  archive: { name: 'archive.tar.zst.age', bytes: 100, sha256: SHA },
  manifest: { name: 'manifest.ndjson.zst.age', bytes: 10, sha256: SHA },
  totals: { files: 1, directories: 1, others: 0, bytes: 5, errors: 0 },
};
const refusalOf = (act: () => unknown): string => {
  try {
    act();
  } catch (fault) {
    if (fault instanceof AegisError) return fault.code;
    throw fault;
  }
  return 'accepted';
};
/** Signed as it is given, whatever it is. */
const signedText = (text: string) => {
  const envelope = signEnvelope('application/vnd.aegis.manifest.v1+json', null, KEY);
  const payload = Buffer.from(text);
  return {
    ...envelope,
    payload: payload.toString('base64'),
    signatures: [{ keyid: KEY.keyId, sig: signatureOf(payload) }],
  };
};
const signatureOf = (payload: Buffer): string => {
  const message = preAuthEncoding('application/vnd.aegis.manifest.v1+json', payload);
  return sign(null, message, KEY.privateKey).toString('base64');
};

test('what a node signs is read by who trusts its key, as an envelope and as an object', () => {
  const envelope = signStatement(STATEMENT, KEY);
  const expected = { statement: STATEMENT, signedBy: KEY.keyId };
  expect(openStatement(envelope, TRUSTED)).toEqual(expected);
  expect(openStatement(statementBytes(envelope), TRUSTED)).toEqual(expected);
  expect(openStatement(envelope, new Map([[OTHER.keyId, OTHER.publicRaw], ...TRUSTED]))).toEqual(expected);
});

test.each<[string, string, () => unknown]>([
  [
    'a key that is not trusted',
    'backups.untrusted_node',
    () => openStatement(signStatement(STATEMENT, OTHER), TRUSTED),
  ],
  ['no key at all', 'backups.untrusted_node', () => openStatement(signStatement(STATEMENT, KEY), new Map())],
  [
    "another's signature under a trusted name",
    'backups.bad_statement',
    () => openStatement(signStatement(STATEMENT, { ...OTHER, keyId: KEY.keyId }), TRUSTED),
  ],
  [
    'an envelope of another type',
    'backups.untrusted_node',
    () => openStatement(signEnvelope('application/vnd.aegis.report.v1+json', STATEMENT, KEY), TRUSTED),
  ],
  [
    'a payload that was altered',
    'backups.bad_statement',
    () => {
      const envelope = signStatement(STATEMENT, KEY);
      const payload = Buffer.from(JSON.stringify({ ...STATEMENT, attempt: 2 })).toString('base64');
      return openStatement({ ...envelope, payload }, TRUSTED);
    },
  ],
  ['no JSON', 'backups.bad_statement', () => openStatement(Buffer.from('{'), TRUSTED)],
  ['no envelope', 'backups.bad_statement', () => openStatement(Buffer.from('{"payload":""}'), TRUSTED)],
  [
    'an envelope with a key twice',
    'backups.bad_statement',
    () =>
      openStatement(
        Buffer.from(statementBytes(signStatement(STATEMENT, KEY)).toString().replace('{', '{"payloadType":"x",')),
        TRUSTED,
      ),
  ],
  [
    'a signed text that is no statement',
    'backups.bad_statement',
    () => openStatement(signedText('{"format":"aegis-backup-1"}'), TRUSTED),
  ],
  [
    'a field twice',
    'backups.bad_statement',
    () =>
      openStatement(signedText(JSON.stringify(STATEMENT).replace('"attempt":1', '"attempt":1,"attempt":1')), TRUSTED),
  ],
  [
    'an unknown field',
    'backups.bad_statement',
    () => openStatement(signedText(JSON.stringify({ ...STATEMENT, more: 1 })), TRUSTED),
  ],
  [
    'another format',
    'backups.bad_statement',
    () => openStatement(signedText(JSON.stringify({ ...STATEMENT, format: 'aegis-backup-2' })), TRUSTED),
  ],
  [
    'a failed run',
    'backups.bad_statement',
    () => openStatement(signedText(JSON.stringify({ ...STATEMENT, state: 'failed' })), TRUSTED),
  ],
  ['nothing wrong', 'accepted', () => openStatement(signedText(JSON.stringify(STATEMENT)), TRUSTED)],
])('%s: %s', (_, refusal, act) => {
  expect(refusalOf(act)).toBe(refusal);
});
