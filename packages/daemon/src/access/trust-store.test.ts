import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import { createLog } from '../platform/log.ts';
import { trustStore } from './trust-store.ts';

const NOW = Date.parse('2026-06-01T00:00:00Z');
const [root, mallory, server, signer] = [1, 2, 3, 4].map(() => generateKeyPair()) as [
  KeyPair,
  KeyPair,
  KeyPair,
  KeyPair,
];
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
const withSigner = (version: number, state: 'active' | 'revoked' = 'active') =>
  signed(version, { keys: [key(server, ['serve']), key(signer, ['artifacts'], state)] });

let dataDir: string;
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'aegis-trust-'));
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

/** A store over a server that shows what it is told; as often as wanted over one data directory. */
const open = (identityBundle = FIRST) => {
  const clock = { at: NOW, passed: 0, now: () => clock.at, monotonic: () => clock.passed };
  const shown: { bundle: Envelope | null; asked: number } = { bundle: null, asked: 0 };
  const lines: { level: string; msg: string }[] = [];
  const client = {
    call: async () => {
      shown.asked++;
      if (!shown.bundle) throw new Unreachable('down');
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
  await store.show(withSigner(2));
  const second = { version: 2, signers: [server.keyId], artifacts: [[signer.keyId, 'active']] };
  expect([trusted(store), store.changes()]).toEqual([second, 1]);
  expect(store.signers()).toBe(store.signers());
  expect(statSync(join(dataDir, 'trust.json')).mode & 0o777).toBe(0o600);

  const again = open();
  expect(trusted(again)).toEqual(second);
  await again.show(withSigner(5, 'revoked')); // versions in between need not have been seen
  expect(trusted(again)).toEqual({ version: 5, signers: [server.keyId], artifacts: [[signer.keyId, 'revoked']] });
  expect(trusted(open())).toEqual(trusted(again));
  // A node that joined anew has a newer one in its identity than in an old trust.json.
  expect(open(signed(6)).version()).toBe(6);
  expect([...store.errors(), ...again.errors()]).toEqual([]);
});

const prefix = "The server's trust bundle is refused: ";
const mallorys = { threshold: 1 as const, keys: [mallory.publicRaw.toString('base64')] };
const both = { threshold: 1 as const, keys: [mallorys.keys[0] ?? '', root.publicRaw.toString('base64')] };
const held = withSigner(3, 'revoked');
test.each<[string, Envelope, string]>([
  ['an older version', withSigner(2), 'it is version 2, this node has 3. Was the server restored from an old backup?'],
  ['the first', FIRST, 'it is version 1, this node has 3. Was the server restored from an old backup?'],
  [
    'the same version, other bytes',
    withSigner(3),
    'it is another one than the version 3 that this node has. Was the server restored from an old backup?',
  ],
  [
    'a revoked key that is active again',
    withSigner(4),
    `it brings back the key 'artifacts' (${signer.keyId.slice(0, 16)}), which was revoked. Was the server restored from an old backup? Revoke that key anew.`,
  ],
  [
    'a foreign root',
    signTrustBundle(bundle(4, { root: mallorys }), mallory),
    'its root key is not the one that the join token names.',
  ],
  [
    'the root beside a foreign one that signed',
    signTrustBundle(bundle(4, { root: both }), mallory),
    'its root signature is wrong.',
  ],
  ['no signature of the root', signTrustBundle(bundle(4), mallory), 'its root signature is wrong.'],
  ['expired', signed(4, { expires_at: '2026-05-31T00:00:00Z' }), 'it expired at 2026-05-31T00:00:00Z.'],
  ['another fleet of the same root', signed(4, { fleet: 'g' }), "it is of the fleet 'g', this node belongs to 'f'."],
  [
    'a key twice',
    signed(4, { keys: [key(signer, ['artifacts'], 'revoked'), key(signer, ['artifacts'])] }),
    'it lists a key twice, so that nobody can say what the key may do.',
  ],
  ['an unknown usage', signed(4, { keys: [key(signer, ['all' as never])] }), 'it is not a trust bundle.'],
  ['a changed payload', { ...held, payload: withSigner(4).payload }, 'its root signature is wrong.'],
])('refused, and said once: %s', async (_, hostile, why) => {
  const store = open();
  await store.show(held);
  const before = [trusted(store), readFileSync(join(dataDir, 'trust.json'), 'utf8')];
  await store.show(hostile);
  await store.show(hostile);
  expect([trusted(store), readFileSync(join(dataDir, 'trust.json'), 'utf8')]).toEqual(before);
  expect(store.errors()).toEqual([prefix + why]);
  expect(trusted(open())).toEqual(before[0]);
});

test('a bundle that expires on the node ends all trust, a newer one brings it back', async () => {
  const store = open();
  store.clock.at = Date.parse('2027-01-01T00:00:00Z');
  expect(trusted(store)).toEqual({ version: 1, signers: [], artifacts: [] });
  expect(trusted(store)).toEqual({ version: 1, signers: [], artifacts: [] });
  expect(store.errors()).toEqual([expect.stringContaining('expired at 2027-01-01T00:00:00Z')]);
  await store.show(signed(2, { expires_at: '2030-01-01T00:00:00Z' }));
  expect(trusted(store)).toEqual({ version: 2, signers: [server.keyId], artifacts: [] });
  const restarted = open();
  restarted.clock.at = Date.parse('2030-01-01T00:00:00Z');
  expect(trusted(restarted).signers).toEqual([]);
  restarted.clock.at = NOW; // a clock that is set right again
  expect(trusted(restarted).signers).toEqual([server.keyId]);
});

test('asked for only when it is newer, one request at a time, and not again at once when the answer was not', async () => {
  const store = open();
  await store.refreshIfNewer(1);
  expect(store.shown.asked).toBe(0);
  await expect(store.refreshIfNewer(2)).rejects.toThrow('down');
  store.shown.bundle = withSigner(2);
  await Promise.all([store.refreshIfNewer(2), store.refreshIfNewer(2), store.refresh()]);
  expect([store.shown.asked, store.version()]).toEqual([2, 2]);
  await store.refreshIfNewer(1_000_000); // a server that claims what it does not have
  await store.refreshIfNewer(1_000_000);
  expect(store.shown.asked).toBe(3);
  store.clock.passed += 10_000;
  await store.refreshIfNewer(1_000_000);
  expect([store.shown.asked, store.version(), store.errors()]).toEqual([4, 2, []]);
  await store.refreshIfNewer(3); // another one may well be there
  expect(store.shown.asked).toBe(5);
});

test.each<[string, string]>([
  ['damaged', '{"trust_bundle'],
  ['empty', ''],
  ['of a foreign root', JSON.stringify({ trust_bundle: signTrustBundle(bundle(9, { root: mallorys }), mallory) })],
])(
  'a trust.json that is %s: nobody is trusted, not even by the enrolment’s, until a server shows a good one',
  async (_, text) => {
    writeFileSync(join(dataDir, 'trust.json'), text, { mode: 0o600 });
    const store = open(signed(2));
    expect([store.current(), trusted(store)]).toEqual([null, { version: 0, signers: [], artifacts: [] }]);
    expect(store.errors()).toEqual([expect.stringContaining('nothing is obeyed until the server shows one that is')]);
    await store.show(FIRST);
    expect(trusted(store).version).toBe(0);
    await store.show(withSigner(2));
    expect(trusted(store).version).toBe(2);
    expect(open().version()).toBe(2);
  },
);

test('a trust.json that others may write to stops the start', async () => {
  await open().show(withSigner(2));
  chmodSync(join(dataDir, 'trust.json'), 0o666);
  expect(() => open()).toThrow(expect.objectContaining({ code: 'config.invalid' }));
});

test('what cannot be stored is in force all the same, and stored later', async () => {
  const store = open();
  mkdirSync(join(dataDir, 'trust.json.tmp')); // in the way of the new file
  await store.show(withSigner(2, 'revoked'));
  expect(trusted(store).artifacts).toEqual([[signer.keyId, 'revoked']]);
  expect(store.errors()).toEqual([expect.stringContaining('cannot be stored')]);
  expect(open().version()).toBe(1);
  rmSync(join(dataDir, 'trust.json.tmp'), { recursive: true });
  await store.show(withSigner(2, 'revoked'));
  expect(open().version()).toBe(2);
});
