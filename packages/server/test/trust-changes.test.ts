import { readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import { PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { addKey, createJoinToken, revokeKey } from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair, privateKeyToPem } from '@aegis/protocol/access/keys';
import {
  readTrustPayload,
  rootFingerprintOf,
  signTrustBundle,
  type TrustBundle,
} from '@aegis/protocol/access/trust-bundle';
import { digestOf, followTrust } from '@aegis/protocol/access/trust-chain';
import { type TrustChange, walkTrust } from '@aegis/protocol/access/trust-endpoints';
import { healthLong } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { loadFleetKeys } from '../src/access/fleet-keys.ts';
import { trustOf } from '../src/access/trust.ts';
import { renewTrust } from '../src/access/trust-loop.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';
import {
  added,
  alice,
  base64,
  bob,
  carol,
  current,
  drafted,
  mallory,
  publish,
  refusal,
  rootOf,
  rootPem,
  signedBy,
} from './trust-support.ts';

/** How the trust bundle changes where the root's keys are kept elsewhere, and where they are here: drafts, the root, the server's key, renewal. */

test('a change without the root here: drafted, signed elsewhere, published; the same again is the same', async () => {
  await using server = await startTestServer();
  const root = rootOf(server);
  rmSync(rootPem(server));
  const draft = await drafted(server, {
    add: [{ ...added(alice, 'operate'), person: 'alice', scope: { kinds: ['command.run'], selector: 'site=fra' } }],
    lifetime_sec: 30 * 86_400,
  });
  expect([draft.format, draft.signatures, readTrustPayload(draft.payload).version]).toEqual([
    'aegis-trust-draft-1',
    [],
    2,
  ]);
  expect((await current(server)).version).toBe(1);
  const signed = signedBy(draft, root);
  const answer = await publish(server, signed);
  expect(answer).toEqual({
    trust_version: 2,
    head: `2:${digestOf(signed)}`,
    root_fingerprint: root.keyId,
    expires_at: readTrustPayload(draft.payload).expires_at,
  });
  expect(await publish(server, signed)).toEqual(answer);
  expect((await current(server)).keys[1]).toEqual({
    keyid: alice.keyId,
    public_key: base64(alice),
    name: added(alice).name,
    person: 'alice',
    usage: ['operate'],
    scope: { kinds: ['command.run'], selector: 'site=fra' },
    state: 'active',
  });
  await server.restart();
  expect((await current(server)).version).toBe(2);
  // A shorter life goes on with the next version.
  const next = readTrustPayload((await drafted(server, { revoke: [alice.keyId] })).payload);
  expect(Date.parse(next.expires_at) - Date.parse(next.issued_at)).toBe(30 * 86_400_000);
  const { items } = await server.as('admin').call(listAudit, { query: { limit: 10, action: 'publishTrust' } });
  expect(items.map(({ outcome, targets }) => [outcome, targets])).toEqual([
    ['ok', [answer.head]],
    ['begun', []],
    ['ok', [answer.head]],
    ['begun', []],
  ]);
});

test('what is not the properly signed next version is refused, and changes nothing', async () => {
  await using server = await startTestServer();
  const root = rootOf(server);
  const admin = server.as('admin');
  await admin.call(addKey, { body: added(bob) });
  await admin.call(revokeKey, { params: { id: bob.keyId } });
  const before = await current(server);
  const draft = await drafted(server, {});
  const payload = readTrustPayload(draft.payload);
  const other = (change: Partial<TrustBundle>, ...pairs: KeyPair[]) =>
    signTrustBundle({ ...payload, ...change }, ...(pairs.length > 0 ? pairs : [root]));
  const team = { threshold: 2, keys: [alice, bob].map(base64) };
  const serverKey = payload.keys[0] as TrustBundle['keys'][number];
  const merging = { merges: [{ version: 3, digest: digestOf(draft.before) }] };
  const told = [
    signedBy({ ...draft, signatures: [] }, mallory),
    other({ root: team }),
    other({ root: team }, root, alice),
    other({ version: 5 }),
    other({ version: 5, ...merging }),
    other({ previous: 'f'.repeat(64) }),
    other({ previous: 'f'.repeat(64), ...merging }),
    other({ fleet: 'another' }),
    other({ expires_at: '2020-01-01T00:00:00Z' }),
    other({ keys: payload.keys.map((key) => ({ ...key, state: 'active' as const })) }),
    other({ keys: payload.keys.filter(({ usage }) => !usage.includes('serve')) }),
    other({ keys: payload.keys.map((key) => (key === serverKey ? { ...key, state: 'revoked' as const } : key)) }),
    { ...other({}), payload: Buffer.from('{"fleet":1}').toString('base64') },
    { ...other({}), payloadType: PAYLOAD_TYPES.directive },
    signEnvelope(PAYLOAD_TYPES.directive, payload, root),
  ].map((envelope) => refusal(publish(server, envelope)));
  const why = (text: string) =>
    `409 access.bad_trust_bundle: This trust bundle is not put in force: ${text}. Make a draft of what is in force now (aegis access trust draft), and have it signed.`;
  const noKey = why('it lists no key of this server, and no node would obey it any more');
  expect(await Promise.all(told)).toEqual([
    why('its root signature is wrong'),
    why('its new root signature is wrong'),
    why('1 of the 2 new root keys that it needs signed it'),
    why('it is version 5, and 4 follows 3: one was left out'),
    why('it is not the one that follows version 3'),
    expect.stringMatching(/put in force: it follows another one than the version 3 that this server has/),
    why('it is not the one that follows version 3'),
    expect.stringMatching(/put in force: it is of the fleet 'another', this server belongs to/),
    why('it expired at 2020-01-01T00:00:00Z'),
    expect.stringMatching(/put in force: it brings back the key/),
    noKey,
    noKey,
    expect.stringMatching(/^403 access\.untrusted: .*it is not a trust bundle/),
    why('its root signature is wrong'),
    why('its root signature is wrong'),
  ]);
  // A draft of what is not in force any more.
  await admin.call(addKey, { body: added(carol) });
  expect(await refusal(publish(server, signedBy(draft)))).toMatch(
    /put in force: it is another one than the version 4 that this server has/,
  );
  expect((await current(server)).version).toBe(before.version + 1);
});

test('a draft that asks for what cannot be is refused', async () => {
  await using server = await startTestServer();
  const root = (keys: unknown[], threshold = 1) => ({ root: { threshold, keys } }) as TrustChange;
  const pub = (pair: KeyPair, person?: string) => ({ public_key: base64(pair), ...(person ? { person } : {}) });
  const told = [
    root([pub(alice), pub(alice)]),
    root([pub(alice)], 2),
    root([pub(alice, 'alice'), pub(bob, 'alice')], 2),
    root([pub(alice, 'alice'), pub(bob)]),
    root([{ public_key: 'x' }]),
    root([]),
    root([pub(alice)], 9),
    { revoke: ['nobody'] },
    { lifetime_sec: 60 },
    { merges: [{ version: 1, digest: 'x' }] },
    { server_key: { overlap_sec: -1 } },
    { more: 1 } as TrustChange,
  ].map((body) => refusal(drafted(server, body)));
  const noRoot = (text: string) =>
    `422 access.bad_root: That is no root: ${text}. Give each key once, a person to all or to none of them, and a threshold of at most as many.`;
  expect(await Promise.all(told)).toEqual([
    noRoot('a root key stands there twice'),
    noRoot('the threshold is more than there are root keys, or persons'),
    noRoot('the threshold is more than there are root keys, or persons'),
    noRoot('one person for each root key'),
    expect.stringMatching(/^422 access\.bad_key: /),
    expect.stringMatching(/^400 http\.malformed: .*root/),
    expect.stringMatching(/^400 http\.malformed: .*root/),
    expect.stringMatching(/^404 access\.unknown_key: /),
    expect.stringMatching(/^400 http\.malformed: .*lifetime_sec/),
    expect.stringMatching(/^400 http\.malformed: .*merges/),
    expect.stringMatching(/^400 http\.malformed: .*server_key/),
    expect.stringMatching(/^400 http\.malformed: .*more/),
  ]);
  rmSync(rootPem(server));
  expect(await refusal(drafted(server, { root: { on_server: true } }))).toMatch(
    /^409 access\.root_key_absent: The root key is kept away from this server/,
  );
});

test('a root of several persons: both roots sign, then as many as the threshold says; join tokens name it', async () => {
  await using server = await startTestServer();
  const first = rootOf(server);
  const keys = [alice, bob, carol].map((pair, at) => ({
    public_key: base64(pair),
    person: ['alice', 'alice', 'carol'][at],
  }));
  const draft = await drafted(server, { root: { threshold: 2, keys } });
  expect(draft.signatures.map(({ keyid }) => keyid)).toEqual([first.keyId]); // the server has the old root
  expect(await refusal(publish(server, signedBy(draft, alice, bob)))).toMatch(/1 of the 2 new root persons/);
  const { root_fingerprint } = await publish(server, signedBy(draft, alice, carol));
  expect(root_fingerprint).toBe(rootFingerprintOf((await current(server)).root));
  expect(server.running.rootFingerprint).toBe(root_fingerprint);
  const { join_token } = await server.as('admin').call(createJoinToken, { body: { uses: 1 } });
  expect(parseJoinToken(join_token).rootFingerprint).toBe(root_fingerprint);
  await server.enrol('web-1');
  // The old root, which is still on disk, does nothing any more.
  expect(await refusal(server.as('admin').call(addKey, { body: added(mallory) }))).toMatch(
    /^409 access\.root_key_absent: keys\/root\.pem in the data directory is damaged, or another fleet's/,
  );
  const next = await drafted(server, { add: [added(mallory)] });
  expect(await refusal(publish(server, signedBy(next, first, alice, bob)))).toMatch(/1 of the 2 root persons/);
  await publish(server, signedBy(next, bob, carol));
  // With one of the keys here the rest is still needed, and said.
  renameSync(rootPem(server), `${rootPem(server)}.old`);
  const { createPrivateFile } = await import('../src/access/private-files.ts');
  createPrivateFile(rootPem(server), privateKeyToPem(alice.privateKey));
  expect(await refusal(server.as('admin').call(revokeKey, { params: { id: mallory.keyId } }))).toMatch(
    /^409 access\.root_key_absent: The root needs 2 keys to sign, and 1 of them are here/,
  );
  await server.restart();
  expect(server.running.rootFingerprint).toBe(root_fingerprint);
});

test('a new root that the server keeps needs nobody else', async () => {
  await using server = await startTestServer();
  const first = rootOf(server);
  const { root_fingerprint } = await publish(server, signedBy(await drafted(server, { root: { on_server: true } })));
  expect(root_fingerprint).not.toBe(first.keyId);
  rmSync(rootPem(server));
  await server.as('admin').call(addKey, { body: added(alice) });
  expect((await current(server)).version).toBe(3);
});

test.each(['server.root-key-before-file', 'server.root-key-after-file', 'server.trust-before-link'])(
  'death at %s leaves the old root in force, and the same again ends with one new root',
  async (point) => {
    await using server = await startTestServer();
    const { dataDir } = server;
    const rotated = async (faults: { at(name: string): void }) => {
      const keys = loadFleetKeys(dataDir, Date.now());
      if (!keys) throw new Error('the fleet is not there');
      const trust = trustOf({ dataDir, keys, clock: { now: Date.now }, faults });
      await trust.publish(signedBy(trust.draft({ root: { on_server: true } })));
      return trust;
    };
    const before = server.running.rootFingerprint;
    const died = rotated({
      at: (name) => {
        if (name === point) throw new Error('killed');
      },
    });
    await expect(died).rejects.toThrow('killed');
    expect(loadFleetKeys(dataDir, Date.now())?.rootFingerprint).toBe(before);
    const trust = await rotated({ at: () => undefined });
    expect([trust.current().version, trust.rootFingerprint() === before]).toEqual([2, false]);
    expect(readdirSync(join(dataDir, 'keys')).filter((name) => name.startsWith('root-'))).toHaveLength(1);
  },
);

test('the chain is served to anyone, in pages, and followed step by step', async () => {
  await using server = await startTestServer();
  const admin = server.as('admin');
  for (let at = 0; at < 34; at++) await admin.call(addKey, { body: added(generateKeyPair()) });
  const from = (version: number) => server.as('anyone').call(walkTrust, { query: { from: version } });
  const [first, second, none] = [await from(1), await from(33), await from(36)];
  expect([first.trust_bundles.length, second.trust_bundles.length, none]).toEqual([
    32,
    3,
    { trust_bundles: [], newest: 35 },
  ]);
  const [start, ...steps] = [...first.trust_bundles, ...second.trust_bundles];
  let held = { bundle: readTrustPayload(start?.payload ?? ''), payload: start?.payload ?? '' };
  for (const step of steps) held = followTrust(held, step);
  expect(held.bundle).toEqual(await current(server));
  for (const bad of ['0', '-1', '1.5', 'x', '99999999999', ''])
    expect((await server.as('anyone').send(walkTrust, { query: { from: bad as never } })).status).toBe(400);
});

describe('in time', () => {
  const DAY = 86_400_000;
  const renewed = async (server: TestServer, clock: { now(): number }) => {
    const keys = loadFleetKeys(server.dataDir, clock.now());
    if (!keys) throw new Error('the fleet is not there');
    const trust = trustOf({ dataDir: server.dataDir, keys, clock, faults: { at: () => undefined } });
    const lines: [string, string][] = [];
    const log = Object.fromEntries(
      ['info', 'warn', 'error'].map((level) => [level, (_: object, text: string) => lines.push([level, text])]),
    );
    const entries: (string | null)[][] = [];
    await renewTrust({
      trust,
      clock,
      newId: () => 'id',
      log: log as never,
      audit: {
        append: async (entry) => void entries.push([entry.action, entry.actor_kind, ...entry.targets]) as never,
      },
    });
    return { version: trust.current().version, lines, entries };
  };

  test('the bundle is renewed when it is due and the root is here', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock });
    expect(await renewed(server, clock)).toEqual({ version: 1, lines: [], entries: [] });
    clock.advance((3650 - 364) * DAY);
    expect(await renewed(server, clock)).toEqual({
      version: 2,
      lines: [['info', 'the trust bundle is renewed']],
      entries: [['renewTrust', 'server', 'trust version 2']],
    });
    expect(await renewed(server, clock)).toEqual({ version: 2, lines: [], entries: [] });
  });

  test('without the root people are told, in the log and in the health report, also after it expired', async () => {
    const clock = handClock();
    await using server = await startTestServer({ clock });
    const root = rootOf(server);
    rmSync(rootPem(server));
    const health = async () => (await server.as('anyone').send(healthLong)).json as { warnings?: string[] };
    clock.advance((3650 - 200) * DAY);
    expect([(await renewed(server, clock)).lines, (await health()).warnings]).toEqual([[], undefined]);
    clock.advance(120 * DAY);
    const expires = (await current(server)).expires_at;
    const soon = `The trust bundle expires at ${expires}, and then no node obeys: renew it (aegis access trust draft, sign, publish).`;
    expect([(await renewed(server, clock)).lines, (await health()).warnings]).toEqual([[['warn', soon]], [soon]]);
    clock.advance(90 * DAY);
    const late = `The trust bundle expired at ${expires}, and no node obeys: renew it (aegis access trust draft, sign, publish).`;
    await server.restart(); // it has to start: how else should the next one come into force
    expect([(await renewed(server, clock)).lines, (await health()).warnings]).toEqual([[['warn', late]], [late]]);
    await publish(server, signedBy(await drafted(server, {}), root));
    expect((await health()).warnings).toBeUndefined();
    await server.enrol('web-1');
  });
});
