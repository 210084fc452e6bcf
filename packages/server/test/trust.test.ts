import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { addKey, listKeys, revokeKey, showTrust, type TrustedKey } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, privateKeyToPem } from '@aegis/protocol/access/keys';
import { formatMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import { openTrustBundle, signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { artifactKeysOf } from '@aegis/protocol/artifacts/signature';
import { registerInit } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { loadFleetKeys } from '../src/access/fleet-keys.ts';
import { trustOf } from '../src/access/trust.ts';
import { issueToken } from '../src/offline.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';
import { testClient } from './test-client.ts';

/** The trust bundle on the server: keys added and revoked, each as a new version that the root signs; what stands on disk, also after a crash. */

const PROCESS = fileURLToPath(new URL('./server-process.ts', import.meta.url));
const newKey = () => {
  const key = generateMinisignKey();
  return { ...key, public_key: formatMinisignPublicKey({ ...key, raw: key.publicRaw }) };
};
const wanted = (key: { public_key: string }, more: { name?: string; person?: string } = {}) => ({
  body: { public_key: key.public_key, name: 'release', usage: ['artifacts' as const], ...more },
});
const shown = (key: ReturnType<typeof newKey>, more: Partial<TrustedKey> = {}): TrustedKey => ({
  keyid: key.keyId,
  minisign_id: key.minisignId,
  name: 'release',
  person: null,
  usage: ['artifacts'],
  scope: null,
  until: null,
  state: 'active',
  public_key: key.publicRaw.toString('base64'),
  ...more,
});
const bundleNow = async (server: TestServer) => {
  const { trust_bundle } = await server.as('anyone').call(showTrust);
  return { envelope: trust_bundle, ...openTrustBundle(trust_bundle, server.running.rootFingerprint, Date.now()) };
};
const digest = ({ payload }: Envelope) => createHash('sha256').update(Buffer.from(payload, 'base64')).digest('hex');
const trustFile = (server: { dataDir: string }, version: number) => join(server.dataDir, 'trust', `${version}.json`);
const rootPem = (server: { dataDir: string }) => join(server.dataDir, 'keys', 'root.pem');

test('each change is one version more, signed by the root, naming the one before; all of them stay', async () => {
  await using server = await startTestServer();
  const [alice, bob] = [newKey(), newKey()];
  const admin = server.as('admin');
  const first = await bundleNow(server);
  expect(await admin.call(addKey, wanted(alice, { person: 'Alice Ö.' }))).toEqual(shown(alice, { person: 'Alice Ö.' }));
  const second = await bundleNow(server);
  expect(await admin.call(addKey, wanted({ public_key: bob.publicRaw.toString('base64') }))).toEqual(
    shown(bob, { minisign_id: null }),
  );
  expect(await admin.call(revokeKey, { params: { id: alice.minisignId.toLowerCase() } })).toEqual(
    shown(alice, { person: 'Alice Ö.', state: 'revoked' }),
  );
  const fourth = await bundleNow(server);
  // Of a key without an id of minisign's the beginning does; nobody can make himself such a beginning unnoticed.
  expect(await admin.call(revokeKey, { params: { id: alice.keyId.slice(0, 16) } })).toMatchObject({
    keyid: alice.keyId,
  });
  expect(await admin.send(revokeKey, { params: { id: alice.keyId.slice(0, 15) } })).toMatchObject({ status: 404 });
  expect([first, second, fourth].map(({ bundle }) => bundle.version)).toEqual([1, 2, 4]);
  expect(second.bundle.previous).toBe(digest(first.envelope));
  expect(artifactKeysOf(fourth.bundle).map(({ keyid, state }) => [keyid, state])).toEqual([
    [alice.keyId, 'revoked'],
    [bob.keyId, 'active'],
  ]);
  expect(await server.as('viewer').call(listKeys)).toEqual({
    items: [
      expect.objectContaining({ name: 'server', usage: ['serve'], state: 'active', minisign_id: null }),
      shown(alice, { person: 'Alice Ö.', state: 'revoked' }),
      shown(bob, { minisign_id: null }),
    ],
    trust_version: 4,
    next_cursor: null,
  });
  expect(readdirSync(join(server.dataDir, 'trust')).sort()).toEqual(['2.json', '3.json', '4.json']);
  const chain = [2, 3, 4].map((version) => JSON.parse(readFileSync(trustFile(server, version), 'utf8')) as Envelope);
  expect(chain[2]).toEqual(fourth.envelope);
  expect(chain.map((envelope) => (JSON.parse(atob(envelope.payload)) as TrustBundle).previous)).toEqual(
    [first.envelope, ...chain.slice(0, 2)].map(digest),
  );

  await server.restart();
  expect(await bundleNow(server)).toEqual(fourth);
  // A node that enrols from now on gets the newest.
  const init = await server.as('anyone').send(registerInit, {
    body: { host_id: 'n', public_key: generateKeyPair().publicRaw.toString('base64'), token_id: 'x' },
  });
  expect((init.json as { trust_bundle: Envelope }).trust_bundle).toEqual(fourth.envelope);
});

test("an id that could be two keys' names neither", async () => {
  await using server = await startTestServer();
  const admin = server.as('admin');
  const alice = newKey();
  await admin.call(addKey, wanted(alice));
  const posing = { ...newKey(), minisignId: alice.keyId.slice(0, 16).toUpperCase() };
  await admin.call(addKey, wanted({ public_key: formatMinisignPublicKey({ ...posing, raw: posing.publicRaw }) }));
  const answer = await admin.send(revokeKey, { params: { id: alice.keyId.slice(0, 16) } });
  expect(answer.json).toMatchObject({
    error: { code: 'access.key_conflict', message: expect.stringContaining('Give the whole key id of 64 digits.') },
  });
  expect(await admin.call(revokeKey, { params: { id: alice.keyId } })).toMatchObject({ keyid: alice.keyId });
});

test('lists come in pages', async () => {
  await using server = await startTestServer();
  for (let at = 0; at < 3; at++) await server.as('admin').call(addKey, wanted(newKey(), { name: `key ${at}` }));
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await server.as('viewer').call(listKeys, { query: { limit: 2, ...(cursor ? { cursor } : {}) } });
    names.push(...page.items.map(({ name }) => name));
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
  expect(names).toEqual(['server', 'key 0', 'key 1', 'key 2']);
});

describe('what is refused changes nothing', () => {
  const refused = async (work: Promise<unknown>): Promise<string> => {
    const error = await work.then(
      () => null,
      (reason: unknown) => reason,
    );
    return error instanceof Error ? error.message : 'it was not refused';
  };

  test('keys', async () => {
    await using server = await startTestServer();
    const admin = server.as('admin');
    const [known, revoked] = [newKey(), newKey()];
    await admin.call(addKey, wanted(known));
    await admin.call(addKey, wanted(revoked));
    await admin.call(revokeKey, { params: { id: revoked.keyId } });
    const before = await bundleNow(server);
    const add = (body: Record<string, unknown>) =>
      refused(admin.call(addKey, { body: { name: 'x', usage: ['artifacts'], ...body } as never }));
    const twin = { ...newKey(), minisignId: known.minisignId };
    const serverKey = before.bundle.keys[0];
    const told = [
      await add({ public_key: 'nonsense' }),
      await add({ public_key: Buffer.alloc(32).toString('base64') }),
      await add({ public_key: known.public_key }),
      await add({ public_key: revoked.public_key, name: 'release' }),
      await add({ public_key: formatMinisignPublicKey({ ...twin, raw: twin.publicRaw }) }),
      await add({ public_key: serverKey?.public_key }),
      await add({ public_key: newKey().public_key, usage: ['serve'] }),
      await add({ public_key: newKey().public_key, scope: { kinds: ['command.run'] } }),
      await add({ public_key: newKey().public_key, usage: ['operate'], scope: {} }),
      await add({ public_key: newKey().public_key, usage: ['operate'], scope: { kinds: ['anything'] } }),
      await add({ public_key: newKey().public_key, usage: ['operate'], scope: { selector: 'site=' } }),
      await add({ public_key: newKey().public_key, usage: ['operate'], scope: { selector: 'status=online' } }),
      await add({ public_key: newKey().public_key, usage: [] }),
      await add({ public_key: newKey().public_key, name: '\u001b[2J' }),
      await add({ public_key: newKey().public_key, state: 'active' }),
      await refused(admin.call(revokeKey, { params: { id: 'nobody' } })),
      await refused(admin.call(revokeKey, { params: { id: serverKey?.keyid ?? '' } })),
    ];
    expect(told).toEqual([
      '422 access.bad_key: The key is not the base64 of 42 bytes, as a minisign public key is. Give the .pub file.',
      '422 access.bad_key: That key is a point of small order, under which anybody can sign. Find out where it comes from.',
      "409 access.key_conflict: This key is listed already, as 'release' for artifacts. Revoke it, and add another in its place.",
      "409 access.key_conflict: This key was revoked as 'release', and a revoked key never comes back. Make another with 'aegis access keys create'.",
      `409 access.key_conflict: The key 'release' bears the same id ${known.minisignId}, so that people could take one for the other. Make another key.`,
      "409 access.key_conflict: This key is listed already, as 'server' for serve. Revoke it, and add another in its place.",
      expect.stringMatching(/^400 http\.malformed: .*usage/),
      "422 access.bad_scope: A scope bounds what a key of usage 'operate' may order. Leave it out, or give that usage.",
      '422 access.bad_scope: The scope bounds nothing. Name kinds or a selector in it, or leave it out.',
      expect.stringMatching(/^400 http\.malformed: .*scope\.kinds/),
      expect.stringMatching(/^422 commands\.bad_selector: /),
      '422 access.bad_scope: A node does not know its own status, so that no scope can ask for it. Select by name, site or labels.',
      expect.stringMatching(/^400 http\.malformed: .*usage/),
      expect.stringMatching(/^400 http\.malformed: .*name/),
      expect.stringMatching(/^400 http\.malformed: .*state/),
      "404 access.unknown_key: There is no key 'nobody'. 'aegis access keys list' shows each with its id.",
      "409 access.key_conflict: That is the server's own key: without it no node obeys this server. 'aegis server rotate-key' puts another in its place.",
    ]);
    expect(await bundleNow(server)).toEqual(before);
  });

  test('the same again is answered as the first time, without a new version', async () => {
    await using server = await startTestServer();
    const admin = server.as('admin');
    const key = newKey();
    const first = await admin.call(addKey, wanted(key));
    expect(await admin.call(addKey, wanted(key))).toEqual(first);
    const gone = await admin.call(revokeKey, { params: { id: key.keyId } });
    expect(await admin.call(revokeKey, { params: { id: key.keyId } })).toEqual(gone);
    expect((await bundleNow(server)).bundle.version).toBe(3);
  });

  test('a root key that is elsewhere, damaged, of another fleet, or readable by others', async () => {
    await using server = await startTestServer();
    const admin = server.as('admin');
    const before = await bundleNow(server);
    const own = readFileSync(rootPem(server), 'utf8');
    const attempt = () => refused(admin.call(addKey, wanted(newKey())));
    renameSync(rootPem(server), `${rootPem(server)}.away`);
    const told = [await attempt()];
    for (const text of ['no key', privateKeyToPem(generateKeyPair().privateKey)]) {
      writeFileSync(rootPem(server), text, { mode: 0o600 });
      told.push(await attempt());
    }
    writeFileSync(rootPem(server), own);
    chmodSync(rootPem(server), 0o644);
    told.push(await attempt());
    expect(told).toEqual([
      expect.stringMatching(
        /^409 access\.root_key_absent: The root key is kept away from this server.* Put it back as keys\/root\.pem/,
      ),
      expect.stringMatching(
        /^409 access\.root_key_absent: keys\/root\.pem in the data directory is damaged, or another fleet's/,
      ),
      expect.stringMatching(
        /^409 access\.root_key_absent: keys\/root\.pem in the data directory is damaged, or another fleet's/,
      ),
      expect.stringMatching(/^422 config\.invalid: .*root\.pem holds a secret and may be read by others \(mode 0644\)/),
    ]);
    expect(await bundleNow(server)).toEqual(before);
    chmodSync(rootPem(server), 0o600);
    await admin.call(addKey, wanted(newKey()));
    expect((await bundleNow(server)).bundle.version).toBe(2);
  });
});

describe('on disk', () => {
  const staged = async (): Promise<TestServer> => {
    const server = await startTestServer();
    for (let at = 0; at < 2; at++) await server.as('admin').call(addKey, wanted(newKey()));
    await server.running.close();
    return server;
  };
  const rootOf = (server: TestServer) => loadFleetKeys(server.dataDir, Date.now())?.rootFingerprint ?? 'none';

  test.each<[string, (server: TestServer) => void]>([
    ['a gap', (server) => rmSync(trustFile(server, 2))],
    ['a damaged version', (server) => writeFileSync(trustFile(server, 3), '{"payload')],
    ['an empty one', (server) => writeFileSync(trustFile(server, 3), '')],
    [
      'two in the wrong order',
      (server) => {
        renameSync(trustFile(server, 2), `${trustFile(server, 2)}.x`);
        renameSync(trustFile(server, 3), trustFile(server, 2));
        renameSync(`${trustFile(server, 2)}.x`, trustFile(server, 3));
      },
    ],
    [
      'a version of a foreign root',
      (server) => {
        const mallory = generateKeyPair();
        const { payload } = JSON.parse(readFileSync(trustFile(server, 3), 'utf8')) as Envelope;
        const bundle = JSON.parse(atob(payload)) as TrustBundle;
        const root = { threshold: 1 as const, keys: [mallory.publicRaw.toString('base64')] };
        writeFileSync(trustFile(server, 3), JSON.stringify(signTrustBundle({ ...bundle, root }, mallory)));
      },
    ],
    [
      'a changed payload',
      (server) => {
        const envelope = JSON.parse(readFileSync(trustFile(server, 3), 'utf8')) as Envelope;
        const payload = btoa(atob(envelope.payload).replace('"active"', '"revoked"'));
        writeFileSync(trustFile(server, 3), JSON.stringify({ ...envelope, payload }));
      },
    ],
    ['one that others may read', (server) => chmodSync(trustFile(server, 3), 0o644)],
  ])('%s: the server does not start, and says what to restore', async (_, spoil) => {
    const server = await staged();
    try {
      spoil(server);
      expect(() => rootOf(server)).toThrow(
        expect.objectContaining({ code: 'config.invalid', message: expect.stringMatching(/trust\/[23]\.json/) }),
      );
    } finally {
      rmSync(server.dataDir, { recursive: true });
    }
  });

  test('a branch that another process began is refused, not overwritten', async () => {
    await using server = await startTestServer();
    const admin = server.as('admin');
    await admin.call(listKeys);
    mkdirSync(join(server.dataDir, 'trust'), { recursive: true, mode: 0o700 });
    writeFileSync(trustFile(server, 2), '{}', { mode: 0o600 });
    const answer = await admin.send(addKey, wanted(newKey()));
    expect(answer.json).toMatchObject({
      error: { code: 'config.invalid', message: expect.stringContaining('Another process has made version 2') },
    });
    expect(readFileSync(trustFile(server, 2), 'utf8')).toBe('{}');
    rmSync(trustFile(server, 2));
  });

  test.each([
    ['server.trust-before-link', 1],
    ['server.trust-after-link', 2],
    ['server.before-answer.addKey', 2],
  ])(
    'kill -9 at %s: version %i counts after the restart, and the request again ends as it would have',
    async (point, counts) => {
      await using server = await startTestServer();
      const { dataDir } = server;
      const token = await issueToken({ dataDir, role: 'admin', name: 'crash' });
      await server.running.close();
      const started = async (env: Record<string, string>) => {
        const child = spawn(
          process.execPath,
          [PROCESS, JSON.stringify({ data_dir: dataDir, listen: ['127.0.0.1:0=all'] })],
          {
            env: { PATH: process.env.PATH, ...env },
            stdio: ['ignore', 'pipe', 'ignore'],
          },
        );
        const ended = once(child, 'exit');
        const { value } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
        const { addresses } = JSON.parse(value ?? '') as { addresses: { all: string } };
        const client = testClient(
          () => addresses.all,
          async () => token,
        );
        return { child, ended, client };
      };
      const key = newKey();
      const dying = await started({ AEGIS_CRASH_AT: `${point}#1` });
      await expect(dying.client.call(addKey, wanted(key))).rejects.toThrow();
      expect(await dying.ended).toEqual([null, 'SIGKILL']);
      expect(loadFleetKeys(dataDir, Date.now())?.chain.length).toBe(counts);
      const again = await started({});
      try {
        expect(await again.client.call(addKey, wanted(key))).toEqual(shown(key));
        expect((await again.client.call(listKeys)).trust_version).toBe(2);
      } finally {
        again.child.kill('SIGKILL');
        await again.ended;
      }
    },
  );

  // In place of kill -9 the named point throws: nothing after it is done, and what the process knew is thrown away.
  test.each([
    ['server.trust-before-link', 1],
    ['server.trust-after-link', 2],
  ])('death at %s leaves version %i whole, and a repeated request the same end', async (point, survives) => {
    await using server = await startTestServer();
    const { dataDir } = server;
    const keys = loadFleetKeys(dataDir, Date.now());
    if (!keys) throw new Error('the fleet is not there');
    const clock = handClock();
    const dying = trustOf({
      dataDir,
      keys,
      clock,
      faults: {
        at: (name) => {
          if (name === point) throw new Error('killed');
        },
      },
    });
    const added = {
      ...keys.chain[0].bundle.keys[0],
      name: 'late',
      usage: ['artifacts' as const],
    } as TrustBundle['keys'][number];
    const raw = newKey();
    const key = { ...added, keyid: raw.keyId, public_key: raw.publicRaw.toString('base64') };
    const change = (present: TrustBundle['keys']) =>
      present.some(({ keyid }) => keyid === key.keyid) ? null : [...present, key];
    await expect(dying.change(change)).rejects.toThrow('killed');
    writeFileSync(join(dataDir, 'trust', '.0123456789abcdef.new'), '{"half'); // what a death within the write itself leaves

    const again = loadFleetKeys(dataDir, Date.now());
    if (!again) throw new Error('the fleet is not there');
    expect(again.chain.length).toBe(survives);
    const heard: number[] = [];
    const trust = trustOf({ dataDir, keys: again, clock, faults: { at: () => undefined } });
    trust.onChange((version) => void heard.push(version));
    await trust.change(change);
    expect([trust.current().version, heard]).toEqual([2, [2]]); // told also when the change itself was made before the crash
    expect(readdirSync(join(dataDir, 'trust'))).toEqual(['2.json']);
  });
});
