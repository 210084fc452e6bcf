import { expect, test } from 'vitest';
import { generateKeyPair, type KeyPair } from './keys.ts';
import { openTrustBundle, signTrustBundle, type TrustBundle } from './trust-bundle.ts';
import { ageOf, digestOf, followRoot, followTrust, type HeldTrust } from './trust-chain.ts';

const pairs = () => Array.from({ length: 6 }, () => generateKeyPair());
const [root, alice, bob, carol, mallory, signer] = pairs() as [KeyPair, KeyPair, KeyPair, KeyPair, KeyPair, KeyPair];
const rootOf = (threshold: number, ...keys: KeyPair[]): TrustBundle['root'] => ({
  threshold,
  keys: keys.map(({ publicRaw }) => publicRaw.toString('base64')),
});
const key = (state: 'active' | 'revoked'): TrustBundle['keys'][number] => ({
  keyid: signer.keyId,
  public_key: signer.publicRaw.toString('base64'),
  name: 'release',
  usage: ['artifacts'],
  state,
});
const FIRST: TrustBundle = {
  fleet: 'f',
  version: 1,
  previous: null,
  issued_at: '2026-01-01T00:00:00Z',
  expires_at: '2027-01-01T00:00:00Z',
  root: rootOf(1, root),
  keys: [key('revoked')],
};
const heldOf = (bundle: TrustBundle): HeldTrust => ({ bundle, payload: signTrustBundle(bundle, root).payload });
const first = heldOf(FIRST);
const after = (held: HeldTrust, change: Partial<TrustBundle> = {}): TrustBundle => ({
  ...held.bundle,
  version: held.bundle.version + 1,
  previous: digestOf(held),
  ...change,
});
const team = rootOf(2, alice, bob, carol);
const prefix = "The server's trust bundle is refused: ";
const restored = 'Was the server restored from an old backup?';

test('a chain is walked over changes of keys and of roots, and back to a root of one', () => {
  let held = first;
  const step = (change: Partial<TrustBundle>, ...signers: KeyPair[]) => {
    held = followTrust(held, signTrustBundle(after(held, change), ...signers));
  };
  step({ expires_at: '2026-01-02T00:00:00Z' }, root); // history by now
  step({ root: team }, root, alice, carol);
  step({ keys: [key('revoked')] }, bob, carol);
  step({ root: rootOf(1, mallory) }, alice, bob, mallory);
  expect([held.bundle.version, held.bundle.root]).toEqual([5, rootOf(1, mallory)]);
});

const second = heldOf(after(first));
test.each<[string, HeldTrust, TrustBundle, KeyPair[], string]>([
  ['a skipped version', first, after(second), [root], 'it is version 3, and 2 follows 1: one was left out.'],
  ['an older one', second, FIRST, [root], `it is version 1, this node has 2. ${restored}.`],
  [
    'a fork',
    second,
    after(first, { keys: [] }),
    [root],
    `it is another one than the version 2 that this node has (2:${digestOf(second)}). ${restored}.`,
  ],
  [
    'another predecessor',
    second,
    after(second, { previous: digestOf(first) }),
    [root],
    `it follows another one than the version 2 that this node has (2:${digestOf(second)}). ${restored}.`,
  ],
  [
    'no predecessor',
    first,
    after(first, { previous: null }),
    [root],
    `it follows another one than the version 1 that this node has (1:${digestOf(first)}). ${restored}.`,
  ],
  ['another signer', first, after(first), [mallory], 'its root signature is wrong.'],
  [
    'a root that signs itself',
    first,
    after(first, { root: rootOf(1, mallory) }),
    [mallory],
    'its root signature is wrong.',
  ],
  ['a root that did not sign', first, after(first, { root: team }), [root], 'its new root signature is wrong.'],
  [
    'too few of the new root',
    first,
    after(first, { root: team }),
    [root, alice],
    '1 of the 2 new root keys that it needs signed it.',
  ],
  [
    'too few of the old root',
    heldOf(after(first, { root: team })),
    after(heldOf(after(first, { root: team })), { root: rootOf(1, root) }),
    [alice, root],
    '1 of the 2 root keys that it needs signed it.',
  ],
  ['another fleet', first, after(first, { fleet: 'g' }), [root], "it is of the fleet 'g', this node belongs to 'f'."],
  [
    'a key twice',
    first,
    after(first, { keys: [key('revoked'), key('revoked')] }),
    [root],
    'it lists a key twice, so that nobody can say what the key may do.',
  ],
  [
    'a revoked key back',
    first,
    after(first, { keys: [key('active')] }),
    [root],
    `it brings back the key 'release' (${signer.keyId.slice(0, 16)}), which was revoked. ${restored} Revoke that key anew.`,
  ],
  [
    'a revoked key left out',
    first,
    after(first, { keys: [] }),
    [root],
    `it brings back the key 'release' (${signer.keyId.slice(0, 16)}), which was revoked. ${restored} Revoke that key anew.`,
  ],
])('refused: %s', (_, held, bundle, signers, why) => {
  expect(() => followTrust(held, signTrustBundle(bundle, ...signers))).toThrow(
    expect.objectContaining({ code: 'access.untrusted', message: prefix + why }),
  );
});

test('a version that merges a lost head is followed from there, with nothing forgotten', () => {
  const head = { version: 2, digest: digestOf(second) };
  const merging = (change: Partial<TrustBundle>) => signTrustBundle({ ...FIRST, version: 5, ...change }, root);
  expect(followTrust(second, merging({ merges: [head] })).bundle.version).toBe(5);
  for (const change of [{ merges: [{ ...head, version: 1 }] }, { merges: [{ ...head, digest: digestOf(first) }] }])
    expect(() => followTrust(second, merging(change))).toThrow('it is version 5, and 3 follows 2: one was left out');
  expect(() => followTrust(second, merging({ merges: [head], keys: [] }))).toThrow('it brings back the key');
  expect(() => followTrust(second, merging({ merges: [head], version: 2 }))).toThrow('it is another one');
});

test('a change of the root is signed by both, wherever it stands', () => {
  const change = (...signers: KeyPair[]) => signTrustBundle(after(second, { root: team }), ...signers);
  expect(followRoot(FIRST.root, change(root, alice, bob))).toEqual(team);
  expect(() => followRoot(FIRST.root, change(alice, bob))).toThrow('its root signature is wrong');
  expect(() => followRoot(FIRST.root, change(root, alice))).toThrow('1 of the 2 new root keys');
  // Whoever pins the new root needs no history.
  expect(openTrustBundle(change(alice, bob), null, 0).bundle.version).toBe(3);
});

test('a bundle is due, then expiring, then expired, in proportion to its lifetime', () => {
  const age = (issued_at: string, expires_at: string, now: string) =>
    ageOf({ ...FIRST, issued_at, expires_at }, Date.parse(now));
  const year = ['2026-01-01T00:00:00Z', '2027-01-01T00:00:00Z'] as const;
  const decade = ['2026-01-01T00:00:00Z', '2036-01-01T00:00:00Z'] as const;
  expect([
    age(...year, '2026-09-30T00:00:00Z'),
    age(...year, '2026-10-03T00:00:00Z'),
    age(...year, '2026-11-17T00:00:00Z'),
    age(...year, '2027-01-01T00:00:00Z'),
    age(...decade, '2034-12-31T00:00:00Z'),
    age(...decade, '2035-01-02T00:00:00Z'),
    age(...decade, '2035-10-04T00:00:00Z'),
    age('2026-01-01T00:00:00Z', 'soon', '2026-01-01T00:00:00Z'),
  ]).toEqual(['good', 'due', 'expiring', 'expired', 'good', 'due', 'expiring', 'expired']);
});
