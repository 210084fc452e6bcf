import { expect, test } from 'vitest';
import { generateKeyPair, type KeyPair } from './keys.ts';
import {
  keysFor,
  openTrustBundle,
  readTrustPayload,
  rootFingerprintOf,
  signTrustBundle,
  type TrustBundle,
} from './trust-bundle.ts';

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
  [
    'the right root beside another',
    signTrustBundle(both, mallory),
    'its root key is not the one that the join token names',
  ],
  ['the right root named, another signature', signTrustBundle(bundle(), mallory), 'its root signature is wrong'],
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

const [alice, bob, carol] = [generateKeyPair(), generateKeyPair(), generateKeyPair()];
const rootOf = (threshold: number, pairs: KeyPair[], persons?: string[]): TrustBundle['root'] => ({
  threshold,
  keys: pairs.map(({ publicRaw }) => publicRaw.toString('base64')),
  ...(persons ? { persons } : {}),
});
const two = rootOf(2, [alice, bob, carol]);
const people = rootOf(2, [alice, bob, carol], ['alice', 'alice', 'carol']);

test('a threshold counts distinct keys, and persons where the root names them', () => {
  const opens = (root: TrustBundle['root'], ...signers: KeyPair[]) => {
    try {
      openTrustBundle(signTrustBundle(bundle({ root }), ...signers), rootFingerprintOf(root), NOW);
      return 'opens';
    } catch (error) {
      return error instanceof Error ? error.message.slice(prefix.length) : error;
    }
  };
  expect([
    opens(two, alice, carol),
    opens(two, alice, bob, carol),
    opens(two, alice),
    opens(two, alice, alice),
    opens(two, alice, mallory),
    opens(two, mallory),
    opens(people, alice, carol),
    opens(people, alice, bob),
  ]).toEqual([
    'opens',
    'opens',
    '1 of the 2 root keys that it needs signed it.',
    '1 of the 2 root keys that it needs signed it.',
    '1 of the 2 root keys that it needs signed it.',
    'its root signature is wrong.',
    'opens',
    '1 of the 2 root persons that it needs signed it.',
  ]);
});

test('the fingerprint binds threshold, keys and persons, whatever the order', () => {
  const base = rootFingerprintOf(two);
  expect(rootFingerprintOf(rootOf(2, [carol, alice, bob]))).toBe(base);
  expect(rootFingerprintOf(rootOf(1, [root]))).toBe(root.keyId);
  const others = [rootOf(1, [alice, bob, carol]), rootOf(2, [alice, bob]), people, rootOf(1, [root], ['root'])];
  expect(new Set([base, root.keyId, ...others.map(rootFingerprintOf)]).size).toBe(6);
});

const operate = { ...listed(alice, ['operate']), scope: { kinds: ['command.run' as const], selector: 'site=fra' } };
test.each<[string, object]>([
  ['a threshold of none', { root: rootOf(0, [root]) }],
  ['a threshold beyond the keys', { root: rootOf(2, [root]) }],
  ['a threshold beyond the persons', { root: rootOf(2, [alice, bob], ['alice', 'alice']) }],
  ['a root key twice', { root: rootOf(1, [root, root]) }],
  ['persons for some', { root: rootOf(1, [root, alice], ['alice']) }],
  ['a scope of what does not operate', { keys: [{ ...operate, usage: ['artifacts'] }] }],
  ['a scope of an unknown kind', { keys: [{ ...operate, scope: { kinds: ['anything'] } }] }],
  ['an empty scope of kinds', { keys: [{ ...operate, scope: { kinds: [] } }] }],
  ["an end of what is no server's key", { keys: [{ ...listed(alice, ['operate']), until: '2027-01-01T00:00:00Z' }] }],
  ['an unknown field', { keys: [{ ...operate, more: 1 }] }],
])('not a trust bundle: %s', (_, change) => {
  const envelope = signTrustBundle(bundle(change), root);
  expect(() => openTrustBundle(envelope, null, NOW)).toThrow(`${prefix}it is not a trust bundle.`);
});

test('a scope is read as it was written, and an end takes effect', () => {
  const ending = { ...listed(bob, ['serve']), until: '2026-06-01T00:00:00Z' };
  const wanted = bundle({ keys: [operate, ending] });
  const { bundle: opened } = openTrustBundle(signTrustBundle(wanted, root), root.keyId, NOW);
  expect(opened).toEqual(wanted);
  const serving = (at: string) => [...keysFor(opened, 'serve', Date.parse(at)).keys()];
  expect([serving('2026-05-31T23:59:59Z'), serving('2026-06-01T00:00:00Z')]).toEqual([[bob.keyId], []]);
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

test.each([
  ['a direction mark', '\u200e'],
  ['nothing wide', '\u200b'],
  ['an end of line', '\n'],
  ['an escape', '\x1b'],
  ['another end of line', '\u2028'],
  ['a filler', '\u3164'],
])('names and persons with what nobody sees are refused: %s', (_, hidden) => {
  const opens = (change: Partial<TrustBundle>): boolean => {
    const { payload } = signTrustBundle(bundle(change), root);
    try {
      return readTrustPayload(payload) !== null;
    } catch {
      return false;
    }
  };
  const key = listed(alice, ['operate']);
  expect(['Alice Ö. 李', `Alice${hidden}`].map((name) => opens({ keys: [{ ...key, name }] }))).toEqual([true, false]);
  expect(['Alice Ö. 李', `Alice${hidden}`].map((person) => opens({ keys: [{ ...key, person }] }))).toEqual([
    true,
    false,
  ]);
  expect(['Alice Ö. 李', `Alice${hidden}`].map((person) => opens({ root: rootOf(1, [alice], [person]) }))).toEqual([
    true,
    false,
  ]);
  expect(
    ['site=fra', `site=fra${hidden}`].map((selector) => opens({ keys: [{ ...key, scope: { selector } }] })),
  ).toEqual([true, false]);
});
