import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import { createLog } from '../platform/log.ts';
import { signersNamedIn, trustStore } from './trust-store.ts';

const NOW = Date.parse('2026-06-01T00:00:00Z');
const [root, mallory, server, signer] = [1, 2, 3, 4].map(() => generateKeyPair()) as [
  KeyPair,
  KeyPair,
  KeyPair,
  KeyPair,
];
const [alice, bob, carol] = [generateKeyPair(), generateKeyPair(), generateKeyPair()];
type Usage = TrustBundle['keys'][number]['usage'];
const key = (pair: KeyPair, usage: Usage, state: 'active' | 'revoked' = 'active') => ({
  keyid: pair.keyId,
  public_key: pair.publicRaw.toString('base64'),
  name: usage.join(),
  usage,
  state,
});
const bundle = (version: number, change: Partial<TrustBundle> = {}): TrustBundle => ({
  fleet: 'f',
  version,
  previous: null,
  issued_at: '2026-01-01T00:00:00Z',
  expires_at: '2027-01-01T00:00:00Z',
  root: { threshold: 1, keys: [root.publicRaw.toString('base64')] },
  keys: [key(server, ['serve'])],
  ...change,
});
const signed = (version: number, change: Partial<TrustBundle> = {}): Envelope =>
  signTrustBundle(bundle(version, change), root);
const FIRST = signed(1);
/** The version after `before`. */
const next = (before: Envelope, change: Partial<TrustBundle> = {}, ...roots: KeyPair[]): Envelope => {
  const was = JSON.parse(atob(before.payload)) as TrustBundle;
  const merged = { ...was, version: was.version + 1, previous: digestOf(before), ...change };
  return signTrustBundle(merged, ...(roots.length > 0 ? roots : [root]));
};
const withSigner = (before: Envelope, state: 'active' | 'revoked' = 'active') =>
  next(before, { keys: [key(server, ['serve']), key(signer, ['artifacts'], state)] });
const SECOND = withSigner(FIRST);
const THIRD = withSigner(SECOND, 'revoked');
const FOURTH = next(THIRD);
const CHAIN = [FIRST, SECOND, THIRD, FOURTH];

let dataDir: string;
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'aegis-trust-'));
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

/** A store over a server that shows what it is told; as often as wanted over one data directory. */
const open = (identityBundle = FIRST, chain: Envelope[] = CHAIN) => {
  const clock = { at: NOW, passed: 0, now: () => clock.at, monotonic: () => clock.passed };
  const shown: { bundle: Envelope | null; asked: number; walked: number[] } = { bundle: null, asked: 0, walked: [] };
  const lines: { level: string; msg: string }[] = [];
  const client = {
    call: async ({ id }: { id: string }, { query }: { query?: { from: number } }) => {
      if (!shown.bundle) throw new Unreachable('down');
      if (id === 'walkTrust') {
        const from = query?.from ?? 0;
        shown.walked.push(from);
        return { trust_bundles: chain.slice(from - 1, from + 1), newest: chain.length };
      }
      shown.asked++;
      return { trust_bundle: shown.bundle, root_fingerprint: 'not looked at' };
    },
  } as unknown as HttpClient;
  const store = trustStore({
    dataDir,
    identity: { fleet: 'f', root_fingerprint: root.keyId, trust_bundle: identityBundle },
    client,
    clock,
    log: createLog({ level: 'info', format: 'json' }, (line) => void lines.push(JSON.parse(line))),
  });
  let changes = 0;
  store.onChange(() => changes++);
  return {
    ...store,
    clock,
    shown,
    show: async (envelope: Envelope) => {
      shown.bundle = envelope;
      await store.refresh();
    },
    errors: () => lines.filter(({ level }) => level === 'error').map(({ msg }) => msg),
    warnings: () => lines.filter(({ level }) => level === 'warn').map(({ msg }) => msg),
    changes: () => changes,
  };
};
const trusted = (store: ReturnType<typeof open>) => ({
  version: store.version(),
  signers: [...store.signers().keys()],
  artifacts: store.artifactKeys().map(({ keyid, state }) => [keyid, state]),
});
const AT_FIRST = { version: 1, signers: [server.keyId], artifacts: [] };

test('a newer bundle comes into force, and stays over a restart; the enrolment’s counts until then', async () => {
  const store = open();
  expect(trusted(store)).toEqual(AT_FIRST);
  await store.show(SECOND);
  const second = { version: 2, signers: [server.keyId], artifacts: [[signer.keyId, 'active']] };
  expect([trusted(store), store.changes(), store.shown.walked]).toEqual([second, 1, []]);
  expect(store.signers()).toBe(store.signers());
  expect(statSync(join(dataDir, 'trust.json')).mode & 0o777).toBe(0o600);

  const again = open();
  expect(trusted(again)).toEqual(second);
  await again.show(FOURTH);
  expect(trusted(again)).toEqual({ version: 4, signers: [server.keyId], artifacts: [[signer.keyId, 'revoked']] });
  expect([again.shown.walked, again.changes()]).toEqual([[3], 1]);
  expect(trusted(open())).toEqual(trusted(again));
  // A node that joined anew has a newer one in its identity than in an old trust.json.
  expect(open(next(FOURTH)).version()).toBe(5);
  expect([...store.errors(), ...again.errors()]).toEqual([]);
});

const team = [alice, bob, carol];
const teamRoot: TrustBundle['root'] = { threshold: 2, keys: team.map(({ publicRaw }) => publicRaw.toString('base64')) };
const TO_TEAM = next(FOURTH, { root: teamRoot }, root, alice, carol);
const OF_TEAM = next(TO_TEAM, { expires_at: '2026-05-31T00:00:00Z' }, bob, carol);
const BACK = next(OF_TEAM, { root: bundle(1).root, expires_at: '2027-01-01T00:00:00Z' }, root, alice, bob);
const LONG = [...CHAIN, TO_TEAM, OF_TEAM, BACK];

test('a node that was away walks over changes of the root, and knows the way after a restart', async () => {
  const store = open(FIRST, LONG);
  await store.show(TO_TEAM);
  expect([store.version(), store.shown.walked]).toEqual([5, [2, 4]]);
  const again = open(FIRST, LONG);
  expect(again.version()).toBe(5);
  await again.show(BACK); // over one that is expired by now
  expect([again.version(), again.shown.walked, again.errors()]).toEqual([7, [6], []]);
  expect(open().current()?.root).toEqual(bundle(1).root);
  // The pin is what all of it is checked from: without a step in between the rest is nobody's word.
  const path = join(dataDir, 'trust.json');
  const stored = JSON.parse(readFileSync(path, 'utf8')) as { root_changes: Envelope[] };
  expect(stored.root_changes).toEqual([TO_TEAM, BACK]);
  writeFileSync(path, JSON.stringify({ ...stored, root_changes: [TO_TEAM] }));
  expect(open().current()).toBeNull();
});

const prefix = "The server's trust bundle is refused: ";
const restored = 'Was the server restored from an old backup?';
const mallorys = { threshold: 1, keys: [mallory.publicRaw.toString('base64')] };
const both = { threshold: 1, keys: [mallorys.keys[0] ?? '', root.publicRaw.toString('base64')] };
const here = `version 3 that this node has (3:${digestOf(THIRD)})`;
const forged = signTrustBundle(bundle(9, { root: mallorys }), mallory);
test.each<[string, Envelope, string, Envelope[]?]>([
  ['an older version', SECOND, `it is version 2, this node has 3. ${restored}`],
  ['the first', FIRST, `it is version 1, this node has 3. ${restored}`],
  ['the same version, other bytes', next(SECOND), `it is another one than the ${here}. ${restored}`],
  ['one that follows another', next(next(SECOND)), `it follows another one than the ${here}. ${restored}`],
  [
    'a revoked key that is active again',
    withSigner(THIRD),
    `it brings back the key 'artifacts' (${signer.keyId.slice(0, 16)}), which was revoked. ${restored} Revoke that key anew`,
  ],
  ['a foreign root', next(THIRD, { root: mallorys }, mallory), 'its root signature is wrong'],
  ['the root beside a foreign one that signed', next(THIRD, { root: both }, mallory), 'its root signature is wrong'],
  ['another root that did not sign', next(THIRD, { root: teamRoot }), 'its new root signature is wrong'],
  [
    'too few of another root',
    next(THIRD, { root: teamRoot }, root, alice),
    '1 of the 2 new root keys that it needs signed it',
  ],
  ['expired', next(THIRD, { expires_at: '2026-05-31T00:00:00Z' }), 'it expired at 2026-05-31T00:00:00Z'],
  ['another fleet of the same root', next(THIRD, { fleet: 'g' }), "it is of the fleet 'g', this node belongs to 'f'"],
  [
    'a key twice',
    next(THIRD, { keys: [key(signer, ['artifacts'], 'revoked'), key(signer, ['artifacts'])] }),
    'it lists a key twice, so that nobody can say what the key may do',
  ],
  ['an unknown usage', next(THIRD, { keys: [key(signer, ['all' as never])] }), 'it is not a trust bundle'],
  ['a changed payload', { ...THIRD, payload: FOURTH.payload }, 'its root signature is wrong'],
  [
    'one whose predecessor nobody shows',
    next(FOURTH),
    'it is version 5, and the server does not show version 4, which comes first',
    CHAIN.slice(0, 3),
  ],
  [
    'one whose predecessor was left out',
    next(next(FOURTH)),
    'it is version 5, and 4 follows 3: one was left out',
    [...CHAIN.slice(0, 3), next(FOURTH)],
  ],
  [
    'a forged predecessor',
    next(FOURTH),
    'its root signature is wrong',
    [...CHAIN.slice(0, 3), next(THIRD, {}, mallory)],
  ],
  [
    'a predecessor of a fork',
    next(next(next(SECOND))),
    `it follows another one than the ${here}. ${restored}`,
    [FIRST, SECOND, next(SECOND), next(next(SECOND))],
  ],
  [
    'a forged one far ahead',
    forged,
    'it is version 9, and the server does not show version 4, which comes first',
    CHAIN.slice(0, 3),
  ],
])('refused, and said once: %s', async (_, hostile, why, chain) => {
  const way = open();
  await way.show(THIRD);
  const before = [trusted(way), readFileSync(join(dataDir, 'trust.json'), 'utf8')];
  const met = open(FIRST, chain);
  await met.show(hostile);
  await met.show(hostile);
  expect([trusted(met), readFileSync(join(dataDir, 'trust.json'), 'utf8')]).toEqual(before);
  expect(met.errors()).toEqual([`${prefix + why}.`]);
  expect(trusted(open())).toEqual(before[0]);
});

test('what is genuine on the way to a forged one is taken', async () => {
  const store = open();
  await store.show(forged);
  expect(store.version()).toBe(4);
  expect(store.errors()).toEqual([
    `${prefix}it is version 9, and the server does not show version 5, which comes first.`,
  ]);
});

test('a node goes on with the server that merges the head that the node has', async () => {
  await open().show(THIRD);
  const fork = next(next(SECOND));
  const head = { version: 3, digest: digestOf(THIRD) };
  const third = (JSON.parse(atob(THIRD.payload)) as TrustBundle).keys;
  const merging = next(fork, { merges: [head], keys: third });
  const chain = [FIRST, SECOND, next(SECOND), fork, merging, next(merging)];
  const store = open(FIRST, chain);
  await store.show(next(fork));
  expect(store.version()).toBe(3);
  await store.show(next(merging)); // named by every later one as well
  expect([store.version(), open().version()]).toEqual([6, 6]);
});

test('a bundle that expires on the node ends all trust, a newer one brings it back', async () => {
  const store = open();
  store.clock.at = Date.parse('2027-01-01T00:00:00Z');
  expect([trusted(store), store.age()]).toEqual([{ version: 1, signers: [], artifacts: [] }, 'expired']);
  expect(trusted(store)).toEqual({ version: 1, signers: [], artifacts: [] });
  expect(store.errors()).toEqual([expect.stringContaining('expired at 2027-01-01T00:00:00Z')]);
  await store.show(next(FIRST, { expires_at: '2030-01-01T00:00:00Z' }));
  expect(trusted(store)).toEqual({ version: 2, signers: [server.keyId], artifacts: [] });
  const restarted = open();
  restarted.clock.at = Date.parse('2030-01-01T00:00:00Z');
  expect(trusted(restarted).signers).toEqual([]);
  restarted.clock.at = NOW; // a clock that is set right again
  expect(trusted(restarted).signers).toEqual([server.keyId]);
});

test('a bundle that is about to expire is reported, once', async () => {
  const store = open();
  expect(store.age()).toBe('good');
  store.clock.at = Date.parse('2026-12-31T00:00:00Z');
  expect([store.age(), store.age()]).toEqual(['expiring', 'expiring']);
  expect(store.warnings()).toEqual([
    'the trust bundle expires at 2027-01-01T00:00:00Z, and then nothing is obeyed: whoever holds the root key renews it (aegis access trust draft)',
  ]);
});

test('a server key ends when the bundle says so, without any other bundle', async () => {
  const other = generateKeyPair();
  const ending = { ...key(server, ['serve']), until: '2026-06-02T00:00:00Z' };
  const store = open();
  await store.show(next(FIRST, { keys: [ending, key(other, ['serve'])] }));
  expect(trusted(store).signers).toEqual([server.keyId, other.keyId]);
  expect(store.signers()).toBe(store.signers());
  store.clock.at = Date.parse('2026-06-02T00:00:00Z');
  expect(trusted(store).signers).toEqual([other.keyId]);
  expect(store.signers()).toBe(store.signers());
});

test('asked for only when it is newer, one request at a time, and not again at once when the answer was not', async () => {
  const store = open();
  await store.refreshIfNewer(1);
  expect(store.shown.asked).toBe(0);
  await expect(store.refreshIfNewer(2)).rejects.toThrow('down');
  store.shown.bundle = SECOND;
  await Promise.all([store.refreshIfNewer(2), store.refreshIfNewer(2), store.refresh()]);
  expect([store.shown.asked, store.version()]).toEqual([1, 2]);
  await store.refreshIfNewer(1_000_000); // a server that claims what it does not have
  await store.refreshIfNewer(1_000_000);
  expect(store.shown.asked).toBe(2);
  store.clock.passed += 10_000;
  await store.refreshIfNewer(1_000_000);
  expect([store.shown.asked, store.version(), store.errors()]).toEqual([3, 2, []]);
  await store.refreshIfNewer(3); // another one may well be there
  expect(store.shown.asked).toBe(4);
});

test('a key that nothing names is asked about; in vain, not again at once', async () => {
  const store = open();
  store.shown.bundle = FIRST;
  await store.refreshIfUnknown([]);
  await store.refreshIfUnknown([server.keyId]);
  expect(store.shown.asked).toBe(0);
  await store.refreshIfUnknown([server.keyId, 'f'.repeat(64)]);
  await store.refreshIfUnknown(['e'.repeat(64)]);
  expect(store.shown.asked).toBe(1);
  store.clock.passed += 10_000;
  store.shown.bundle = SECOND;
  await store.refreshIfUnknown([signer.keyId]);
  await store.refreshIfUnknown([signer.keyId]);
  expect([store.shown.asked, store.version()]).toEqual([2, 2]);
});

test('who signed what is offered is read from whatever is offered', () => {
  const directive = signEnvelope(PAYLOAD_TYPES.directive, {}, alice, bob);
  const operator_directive = signEnvelope(PAYLOAD_TYPES.directive, {}, carol);
  expect(
    signersNamedIn([null, 1, {}, { directive: 'x' }, { directive }, { directive, operator_directive, more: 1 }]),
  ).toEqual([alice, bob, alice, bob, carol].map(({ keyId }) => keyId));
});

test.each<[string, string]>([
  ['damaged', '{"trust_bundle'],
  ['empty', ''],
  ['of a foreign root', JSON.stringify({ trust_bundle: forged })],
  ['of a foreign root that signed itself in', JSON.stringify({ trust_bundle: forged, root_changes: [forged] })],
])(
  'a trust.json that is %s: nobody is trusted, not even by the enrolment’s, until a server shows a good one',
  async (_, text) => {
    writeFileSync(join(dataDir, 'trust.json'), text, { mode: 0o600 });
    const store = open(SECOND);
    expect([store.current(), trusted(store)]).toEqual([null, { version: 0, signers: [], artifacts: [] }]);
    expect(store.errors()).toEqual([expect.stringContaining('nothing is obeyed until the server shows one that is')]);
    await store.show(FIRST);
    expect(trusted(store).version).toBe(0);
    await store.show(FOURTH);
    expect(trusted(store).version).toBe(4);
    expect(open(SECOND).version()).toBe(4);
    writeFileSync(join(dataDir, 'trust.json'), text, { mode: 0o600 });
    const again = open(SECOND);
    await again.show(SECOND); // nothing ever came after the enrolment
    expect(again.version()).toBe(2);
  },
);

test('a trust.json that others may write to stops the start', async () => {
  await open().show(SECOND);
  chmodSync(join(dataDir, 'trust.json'), 0o666);
  expect(() => open()).toThrow(expect.objectContaining({ code: 'config.invalid' }));
});

test('what cannot be stored is in force all the same, and stored later', async () => {
  const store = open();
  mkdirSync(join(dataDir, 'trust.json.tmp')); // in the way of the new file
  await store.show(THIRD);
  expect(trusted(store).artifacts).toEqual([[signer.keyId, 'revoked']]);
  expect(store.errors()).toEqual([expect.stringContaining('cannot be stored')]);
  expect(open().version()).toBe(1);
  rmSync(join(dataDir, 'trust.json.tmp'), { recursive: true });
  await store.show(THIRD);
  expect(open().version()).toBe(3);
});
