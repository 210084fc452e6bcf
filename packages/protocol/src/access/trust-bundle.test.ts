import { expect, test } from 'vitest';
import { generateKeyPair, type KeyPair } from './keys.ts';
import { keysFor, openTrustBundle, signTrustBundle, type TrustBundle } from './trust-bundle.ts';

const NOW = Date.parse('2026-01-01T00:00:00Z');
const listed = (pair: KeyPair, usage: ('serve' | 'operate')[], state: 'active' | 'revoked' = 'active') => ({
  keyid: pair.keyId,
  public_key: pair.publicRaw.toString('base64'),
  name: 'server',
  usage,
  state,
});
const root = generateKeyPair();
const server = generateKeyPair();
const bundle = (change: Partial<TrustBundle> = {}): TrustBundle => ({
  fleet: 'f',
  version: 1,
  previous: null,
  issued_at: '2025-01-01T00:00:00Z',
  expires_at: '2030-01-01T00:00:00Z',
  root: { threshold: 1, keys: [root.publicRaw.toString('base64')] },
  keys: [listed(server, ['serve', 'operate'])],
  ...change,
});

test('a bundle signed by the pinned root opens', () => {
  expect(openTrustBundle(signTrustBundle(bundle(), root), root.keyId, NOW)).toEqual({
    bundle: bundle(),
    rootFingerprint: root.keyId,
  });
});

const mallory = generateKeyPair();
const mallorys = bundle({ root: { threshold: 1, keys: [mallory.publicRaw.toString('base64')] } });
const both = bundle({ root: { threshold: 1, keys: [mallory, root].map((pair) => pair.publicRaw.toString('base64')) } });
const prefix = "The server's trust bundle is refused: ";
test.each([
  ['another root', signTrustBundle(mallorys, mallory), 'its root key is not the one that the join token names'],
  ['the right root named, another signature', signTrustBundle(both, mallory), 'its root signature is wrong'],
  [
    'expired',
    signTrustBundle(bundle({ expires_at: '2025-12-31T00:00:00Z' }), root),
    'it expired at 2025-12-31T00:00:00Z',
  ],
  ['a date that is none', signTrustBundle(bundle({ expires_at: 'soon' }), root), 'it expired at soon'],
  ['not a bundle', signTrustBundle({ a: 1 } as never, root), 'it is not a trust bundle'],
  [
    'a key twice',
    signTrustBundle(bundle({ keys: [listed(server, ['serve']), listed(server, ['operate'], 'revoked')] }), root),
    'it lists a key twice, so that nobody can say what the key may do',
  ],
  [
    'beyond all size',
    { ...signTrustBundle(bundle(), root), payload: 'A'.repeat(2 * 1024 * 1024) },
    'it is larger than any trust bundle',
  ],
])('refused: %s', (_, envelope, why) => {
  expect(() => openTrustBundle(envelope, root.keyId, NOW)).toThrow(`${prefix}${why}.`);
});

test('keys count by usage, while active, and only under their own id', () => {
  const [revoked, serving] = [generateKeyPair(), generateKeyPair()];
  const disguised = { ...listed(generateKeyPair(), ['operate']), keyid: mallory.keyId };
  const keys = [
    listed(server, ['serve', 'operate']),
    listed(revoked, ['operate'], 'revoked'),
    listed(serving, ['serve']),
    disguised,
  ];
  expect([...keysFor(bundle({ keys }), 'operate').keys()]).toEqual([server.keyId]);
});
