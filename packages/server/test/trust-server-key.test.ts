import { readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { listAudit, listAuditHeads } from '@aegis/protocol/access/audit-endpoints';
import { auditVerifier } from '@aegis/protocol/access/audit-verify';
import { addKey, revokeKey } from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { expect, test } from 'vitest';
import { loadFleetKeys } from '../src/access/fleet-keys.ts';
import { trustOf } from '../src/access/trust.ts';
import { enrolThrough, handClock, startTestServer, type TestServer } from './start-test-server.ts';
import { added, alice, bob, carol, current, drafted, publish, refusal, signedBy } from './trust-support.ts';

/** The server's key is replaced: which key signs, when the old one ends, and what a crash in between leaves. */

const rotate = async (server: TestServer, overlap_sec: number) =>
  publish(server, signedBy(await drafted(server, { server_key: { overlap_sec } })));
const serving = (bundle: TrustBundle) =>
  bundle.keys.filter(({ usage }) => usage.includes('serve')).map(({ state, until }) => [state, until !== undefined]);
const headKeys = async (server: TestServer) => {
  const { items } = await server.as('admin').call(listAuditHeads, { query: { limit: 1 } });
  return items[0]?.envelope.signatures.map(({ keyid }) => keyid);
};

test('another one signs at once, the one before ends after the overlap; the audit follows', async () => {
  const clock = handClock();
  await using server = await startTestServer({ clock });
  await server.joinToken();
  await server.as('admin').call(addKey, { body: added(bob) });
  await server.running.audit.signHead();
  const [old] = (await current(server)).keys;
  expect(await headKeys(server)).toEqual([old?.keyid]);
  await rotate(server, 3600);
  const during = await current(server);
  const fresh = during.keys[2];
  expect([serving(during), fresh?.name]).toEqual([
    [
      ['active', true],
      ['active', false],
    ],
    'server 2',
  ]);
  expect(await headKeys(server)).toEqual([fresh?.keyid]);
  await server.enrol('web-1'); // with the new one
  expect(readdirSync(join(server.dataDir, 'keys')).filter((name) => name.startsWith('server'))).toHaveLength(2);
  await server.restart();
  expect(await headKeys(server)).toEqual([fresh?.keyid]);
  clock.advance(3600_000);
  const keys = loadFleetKeys(server.dataDir, clock.now());
  expect(keys?.server.keyId).toBe(fresh?.keyid);
  // Once anything changes the old one is revoked for good.
  await server.as('admin').call(addKey, { body: added(alice) });
  expect(serving(await current(server))).toEqual([
    ['revoked', false],
    ['active', false],
  ]);
  const { text } = await server.as('admin').send(listAudit, { headers: { accept: 'application/x-ndjson' } });
  const verifier = auditVerifier({ rootFingerprint: server.running.rootFingerprint });
  for (const line of text.trimEnd().split('\n')) verifier.line(line);
  expect(verifier.end()).toMatchObject({ intact: true, findings: [] });
  // Heads of the replaced key alone are nobody's word.
  const old_only = auditVerifier();
  for (const line of text.trimEnd().split('\n'))
    if (!line.includes('"type":"head"') || line.includes(old?.keyid ?? '-')) old_only.line(line);
  expect(old_only.end().findings.map(({ what }) => what)).toEqual(['bad_head']);
});

test('an enrolment that began before is completed during the overlap, and not after a theft', async () => {
  await using server = await startTestServer();
  const enrolled = async (name: string, overlap_sec: number) => {
    const { id, secret } = parseJoinToken(await server.joinToken());
    const anyone = server.as('anyone');
    const client = {
      ...anyone,
      call: async (...asked: Parameters<typeof anyone.call>) => {
        const answer = await anyone.call(...asked);
        if (asked[0].id === 'registerInit') await rotate(server, overlap_sec);
        return answer;
      },
    } as typeof anyone;
    return enrolThrough(client, { host_id: name, token_id: id }, generateKeyPair(), secret, server.running);
  };
  expect(await enrolled('web-1', 60)).toMatchObject({ agent_uid: expect.any(String) });
  expect(await refusal(enrolled('web-2', 0))).toBe(
    "403 nodes.bad_proof: The signature is not by this node's key over this registration.",
  );
});

test('one that was stolen ends at once, and the new one is not confused with it', async () => {
  await using server = await startTestServer();
  await rotate(server, 0);
  await rotate(server, 600);
  await rotate(server, 60);
  const bundle = await current(server);
  expect(serving(bundle)).toEqual([
    ['revoked', false],
    ['active', true],
    ['active', true],
    ['active', false],
  ]);
  const ends = bundle.keys.map(({ until }) => Date.parse(until ?? ''));
  expect((ends[1] ?? 0) - Date.parse(bundle.issued_at)).toBe(60_000);
  // One that is to end may be revoked before; the one in force may not.
  await server.as('admin').call(revokeKey, { params: { id: bundle.keys[1]?.keyid ?? '' } });
  expect(await refusal(server.as('admin').call(revokeKey, { params: { id: bundle.keys[3]?.keyid ?? '' } }))).toMatch(
    /^409 access\.key_conflict: That is the server's own key/,
  );
  await server.enrol('web-1');
});

test('two processes on one data directory sign with the same key', async () => {
  await using one = await startTestServer({ storage: 'postgres' });
  await using other = await startTestServer({
    dataDir: one.dataDir,
    ...(one.databaseUrl === undefined ? {} : { databaseUrl: one.databaseUrl }),
  });
  await rotate(one, 0);
  const fresh = (await current(other)).keys[1];
  // Of two that follow the same version one comes into force, whichever process it reached.
  const [here, there] = [await drafted(one, { add: [added(bob)] }), await drafted(other, { add: [added(carol)] })];
  const raced = await Promise.allSettled([publish(one, signedBy(here)), publish(other, signedBy(there))]);
  expect(raced.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect((await current(one)).keys).toEqual((await current(other)).keys);
  await other.enrol('web-1');
  await other.as('admin').call(addKey, { body: added(alice) });
  await other.running.audit.signHead();
  expect(await headKeys(other)).toEqual([fresh?.keyid]);
});

test.each(['server.server-key-before-file', 'server.server-key-after-file', 'server.trust-before-link'])(
  'death at %s leaves the old key in force, and the same again ends with one new key',
  async (point) => {
    await using server = await startTestServer();
    const { dataDir } = server;
    const open = (faults: { at(name: string): void }) => {
      const keys = loadFleetKeys(dataDir, Date.now());
      if (!keys) throw new Error('the fleet is not there');
      return trustOf({ dataDir, keys, clock: { now: Date.now }, faults });
    };
    const change = async (faults: { at(name: string): void }) => {
      const trust = open(faults);
      await trust.publish(signedBy(trust.draft({ server_key: { overlap_sec: 60 } })));
      return trust;
    };
    const before = open({ at: () => undefined }).serverKey.keyId;
    const died = change({
      at: (name) => {
        if (name === point) throw new Error('killed');
      },
    });
    await expect(died).rejects.toThrow('killed');
    expect(open({ at: () => undefined }).serverKey.keyId).toBe(before);
    const trust = await change({ at: () => undefined });
    expect([trust.current().version, serving(trust.current().bundle).length]).toEqual([2, 2]);
    expect(readdirSync(join(dataDir, 'keys')).filter((name) => name.startsWith('server-'))).toHaveLength(1);
  },
);

test('without its private half nothing starts', async () => {
  await using server = await startTestServer();
  await rotate(server, 0);
  const folder = join(server.dataDir, 'keys');
  const [name = ''] = readdirSync(folder).filter((one) => one.startsWith('server-'));
  renameSync(join(folder, name), join(folder, 'away'));
  expect(() => loadFleetKeys(server.dataDir, Date.now())).toThrow(
    /server\.pem is not the key that the fleet's trust bundle names, and no other in that folder is/,
  );
  rmSync(join(folder, 'server.pem'));
  expect(() => loadFleetKeys(server.dataDir, Date.now())).toThrow(/server\.pem is missing\. Restore it from a backup/);
  renameSync(join(folder, 'away'), join(folder, name));
});
