import { createHash, sign } from 'node:crypto';
import { expect, test } from 'vitest';
import { signMinisign } from '../access/minisign.ts';
import { generateMinisignKey, type MinisignSecretKey } from '../access/minisign-secret-key.ts';
import type { TrustBundle } from '../access/trust-bundle.ts';
import { AegisError } from '../errors.ts';
import {
  type ArtifactKey,
  artifactKeysOf,
  trustedCommentOf,
  vaultStatement,
  verifyBundleSignature,
} from './signature.ts';

const [alice, bob, mallory] = [generateMinisignKey(), generateMinisignKey(), generateMinisignKey()];
const listed = (key: MinisignSecretKey, name: string, change: Partial<TrustBundle['keys'][number]> = {}) => ({
  keyid: key.keyId,
  public_key: key.publicRaw.toString('base64'),
  name,
  usage: ['artifacts' as const],
  minisign_id: key.minisignId,
  state: 'active' as const,
  ...change,
});
const bundleOf = (...keys: TrustBundle['keys']): TrustBundle => ({
  fleet: 'f',
  version: 2,
  previous: null,
  issued_at: '2026-01-01T00:00:00Z',
  expires_at: '2036-01-01T00:00:00Z',
  root: { threshold: 1, keys: [] },
  keys,
});
const keys = artifactKeysOf(bundleOf(listed(alice, 'alice'), listed(bob, 'bob', { state: 'revoked' })));

const bundle = Buffer.from('the bundle');
const AT = Date.parse('2026-02-03T04:05:06.789Z');
const comment = trustedCommentOf('block-icmp', '1.2.0', AT);
const signedBy = (key: MinisignSecretKey, trustedComment = comment, bytes = bundle): string =>
  signMinisign(bytes, key, { trustedComment });
const vaultBy = (key: MinisignSecretKey, name = 'block-icmp', version = '1.2.0', bytes = bundle): string => {
  const statement = vaultStatement(name, version, createHash('sha256').update(bytes).digest('hex'));
  return `vault:v1:${sign(null, statement, key.privateKey).toString('base64')}`;
};
const verdict = (
  signature: string | null,
  change: { bundle?: Buffer; name?: string; version?: string; keys?: readonly ArtifactKey[] } = {},
) => {
  try {
    return verifyBundleSignature({ bundle, name: 'block-icmp', version: '1.2.0', keys, ...change, signature });
  } catch (error) {
    if (error instanceof AegisError) return [error.code, error.message];
    throw error;
  }
};

test('both forms, and what exactly is signed', () => {
  expect(comment).toBe('aegis-artifact-1 name=block-icmp version=1.2.0 time=2026-02-03T04:05:06.789Z');
  expect(vaultStatement('a', '1', 'ff').toString()).toBe('aegis-artifact-1\na\n1\nff\n');
  const signer = { keyid: alice.keyId, name: 'alice' };
  expect(verdict(signedBy(alice))).toEqual(signer);
  expect(verdict(vaultBy(alice))).toEqual(signer);
  expect(verdict(`${vaultBy(alice)}\n`)).toEqual(signer);
  // By hand: minisign -S -t 'aegis-artifact-1 name=… version=… time=…'
  expect(verdict(signedBy(alice, 'aegis-artifact-1 name=block-icmp version=1.2.0 time=2026-02-03T04:05:06Z'))).toEqual(
    signer,
  );
});

const form = 'The signature is good, but not one for an artifact';
test.each<[string, string | null, string, string, Parameters<typeof verdict>[1]?]>([
  ['none', null, 'artifacts.unsigned', 'block-icmp 1.2.0 is not signed, and no node loads it'],
  ['nothing', '', 'artifacts.bad_signature', 'has four lines'],
  [
    'changed bytes',
    signedBy(alice),
    'artifacts.bad_signature',
    'does not fit these bytes',
    { bundle: Buffer.from('The bundle') },
  ],
  [
    'of another name',
    signedBy(alice),
    'artifacts.bad_signature',
    'for block-icmp 1.2.0, not for other 1.2.0',
    { name: 'other' },
  ],
  ['of another version', signedBy(alice), 'artifacts.bad_signature', 'not for block-icmp 1.3.0', { version: '1.3.0' }],
  [
    'nobody we know',
    signedBy(mallory),
    'artifacts.unknown_signer',
    `the key ${mallory.minisignId}, which this fleet does not trust`,
  ],
  [
    "under another's id",
    signedBy({ ...mallory, minisignId: alice.minisignId }),
    'artifacts.bad_signature',
    'does not fit',
  ],
  ['revoked', signedBy(bob), 'artifacts.revoked_signer', `the key 'bob' (${bob.minisignId}), which is revoked`],
  ['revoked, and changed', signedBy(bob), 'artifacts.bad_signature', 'does not fit', { bundle: Buffer.alloc(3) }],
  ['no comment of ours', signedBy(alice, 'timestamp:1 file:x hashed'), 'artifacts.bad_signature', form],
  ['a comment that goes on', signedBy(alice, `${comment} name=other`), 'artifacts.bad_signature', form],
  ['a comment before it', signedBy(alice, ` ${comment}`), 'artifacts.bad_signature', form],
  ['a time that is none', signedBy(alice, comment.replace('-02-', '-13-')), 'artifacts.bad_signature', form],
  ['no time', signedBy(alice, comment.replace(/ time=.*/, '')), 'artifacts.bad_signature', form],
  [
    'vault: changed bytes',
    vaultBy(alice),
    'artifacts.bad_signature',
    'No key that this fleet trusts',
    { bundle: Buffer.alloc(1) },
  ],
  ['vault: another name', vaultBy(alice, 'other'), 'artifacts.bad_signature', 'No key that this fleet trusts'],
  [
    'vault: another version',
    vaultBy(alice, 'block-icmp', '1.2.1'),
    'artifacts.bad_signature',
    'No key that this fleet',
  ],
  ['vault: nobody we know', vaultBy(mallory), 'artifacts.bad_signature', 'No key that this fleet trusts'],
  ['vault: revoked', vaultBy(bob), 'artifacts.revoked_signer', "the key 'bob'"],
  [
    'vault: no keys',
    vaultBy(alice),
    'artifacts.unknown_signer',
    'This fleet trusts no key for artifacts',
    { keys: [] },
  ],
  ['vault: no version', vaultBy(alice).replace(':v1:', ':v:'), 'artifacts.bad_signature', 'A signature of Vault is'],
  ['vault: short', 'vault:v1:AAAA', 'artifacts.bad_signature', 'A signature of Vault is'],
  ['vault: two of them', `${vaultBy(alice)}\n${vaultBy(alice)}`, 'artifacts.bad_signature', 'A signature of Vault is'],
  ['vault: very long', `vault:v1:${'A'.repeat(100_000)}`, 'artifacts.bad_signature', 'A signature of Vault is'],
])('refused: %s', (_, signature, code, sentence, change) => {
  expect(verdict(signature, change)).toEqual([code, expect.stringContaining(sentence)]);
});

test('of two keys with one id, the one that signed counts', () => {
  const twin = { ...mallory, minisignId: alice.minisignId };
  const both = artifactKeysOf(bundleOf(listed(twin, 'twin', { state: 'revoked' }), listed(alice, 'alice')));
  expect(verdict(signedBy(alice), { keys: both })).toEqual({ keyid: alice.keyId, name: 'alice' });
  expect(verdict(signedBy(twin), { keys: both })).toEqual(['artifacts.revoked_signer', expect.any(String)]);
});

test('which keys of a bundle count', () => {
  const serving = listed(mallory, 'server', { usage: ['serve'] });
  const weak = Buffer.alloc(32);
  const weakKey = {
    ...listed(mallory, 'weak'),
    public_key: weak.toString('base64'),
    keyid: createHash('sha256').update(weak).digest('hex'),
  };
  const disguised = listed(mallory, 'disguised', { keyid: alice.keyId });
  expect(artifactKeysOf(bundleOf(serving, weakKey, disguised))).toEqual([]);
  // Twice in a bundle, in whatever order: revoked once is revoked.
  for (const pair of [
    [listed(alice, 'old', { state: 'revoked' }), listed(alice, 'new')],
    [listed(alice, 'new'), listed(alice, 'old', { state: 'revoked', usage: ['operate'] })],
  ])
    expect(artifactKeysOf(bundleOf(...pair)).every(({ state }) => state === 'revoked')).toBe(true);
  const noId = artifactKeysOf(bundleOf({ ...listed(alice, 'vault'), minisign_id: undefined } as never));
  expect(noId).toMatchObject([{ minisignId: null }]);
  expect(verdict(vaultBy(alice), { keys: noId })).toEqual({ keyid: alice.keyId, name: 'vault' });
  expect(verdict(signedBy(alice), { keys: noId })).toEqual(['artifacts.unknown_signer', expect.any(String)]);
});
