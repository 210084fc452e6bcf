import { type AuditEntry, auditHash } from '@aegis/protocol/access/audit';
import { listAudit, listAuditHeads } from '@aegis/protocol/access/audit-endpoints';
import { type AuditVerdict, auditVerifier } from '@aegis/protocol/access/audit-verify';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { createToken, listTokens, revokeToken } from '@aegis/protocol/access/endpoints';
import { ackCommands, submitCommand } from '@aegis/protocol/commands/endpoints';
import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import { auditRepository } from '../src/access/audit/repository.ts';
import {
  issueJoinToken,
  issueToken,
  listJoinTokens as joinTokensThere,
  openServerStorage,
  requireFleetKeys,
  revokeJoinToken as revokeJoinTokenThere,
  revokeToken as revokeTokenThere,
  listTokens as tokensThere,
} from '../src/offline.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

const exported = async (server: TestServer): Promise<string[]> => {
  const { text, status } = await server.as('admin').send(listAudit, { headers: { accept: 'application/x-ndjson' } });
  expect(status).toBe(200);
  return text.trimEnd().split('\n');
};
const verified = (
  lines: readonly string[],
  kept: Envelope[] = [],
  rootFingerprint: string | null = null,
): AuditVerdict => {
  const verifier = auditVerifier({ kept, rootFingerprint });
  for (const line of lines) verifier.line(line);
  return verifier.end();
};
const found = ({ findings }: AuditVerdict) => findings.map(({ what, seq }) => ({ what, seq }));
const newestHead = async (server: TestServer) => {
  await server.running.audit.signHead();
  const { items } = await server.as('admin').call(listAuditHeads, { query: { limit: 1 } });
  return items[0]?.envelope as Envelope;
};
/** Ten entries: five tokens made. */
const stage = async (options: Parameters<typeof startTestServer>[0] = {}) => {
  const server = await startTestServer(options);
  for (let at = 0; at < 5; at += 1)
    await server.as('admin').call(createToken, { body: { name: `t${at}`, role: 'viewer' } });
  return server;
};

describe.each(['sqlite', 'postgres'] as const)('on %s', (storage) => {
  test('who did what: before, after, refused, and never a secret', async () => {
    const clock = handClock(Date.parse('2027-01-01T00:00:00Z'));
    await using server = await startTestServer({ storage, clock });
    const admin = server.as('admin');
    const made = await admin.call(createToken, { body: { name: 'Alice', role: 'operator', ttl_sec: 60 } });
    await admin.send(revokeToken, { params: { id: 'nobody%00' } });
    await server.enrol('web-1');
    const script = 'echo very-secret';
    const submitted = await server
      .as('operator')
      .call(submitCommand, { body: { command_type: 'RunCommand', payload: { cmd: script }, targets: ['web-1'] } });
    const { items } = await admin.call(listAudit, { query: { limit: 100 } });
    const seen = items
      .toReversed()
      .map(({ action, outcome, code, targets, summary, actor_kind, actor_name }) => [
        action,
        outcome,
        code,
        targets,
        summary,
        actor_kind,
        actor_name,
      ]);
    const enrolled = seen.filter(([action]) => action === 'registerComplete');
    const asked = ['name=Alice', 'role=operator', 'ttl_sec=60'];
    const run = [
      'command_type=RunCommand',
      'ttl_sec=3600',
      'priority=normal',
      'delivery=at-most-once',
      'max_retries=0',
      'dry_run=false',
    ];
    expect(seen.filter(([action]) => action !== 'registerComplete')).toEqual([
      ['createToken', 'begun', null, [], asked, 'token', 'test-admin'],
      ['createToken', 'ok', null, [made.id], asked, 'token', 'test-admin'],
      ['revokeToken', 'begun', null, ['nobody%00'], [], 'token', 'test-admin'],
      ['revokeToken', 'refused', 'access.unknown_token', ['nobody%00'], [], 'token', 'test-admin'],
      ['submitCommand', 'begun', null, ['web-1'], run, 'token', 'test-operator'],
      ['submitCommand', 'ok', null, [submitted.command_id, 'web-1'], run, 'token', 'test-operator'],
    ]);
    expect(enrolled.map(([, outcome, code]) => [outcome, code])).toEqual([
      ['begun', null],
      ['ok', null],
    ]);
    const text = (await exported(server)).join('\n');
    expect(text).not.toContain('very-secret');
    expect(text).not.toContain(made.token);
    expect(items.every(({ address, at }) => address === '127.0.0.1' && at === '2027-01-01T00:00:00.000Z')).toBe(true);
    expect(verified(await exported(server))).toMatchObject({ intact: true, entries: items.length });
  });

  test('a flood of refused logins, and of refused roles, is two entries a minute', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const nobody = server.withToken('aegis_nothing');
    for (let at = 0; at < 50; at += 1) expect((await nobody.send(listTokens)).status).toBe(401);
    const viewer = server.as('viewer');
    for (let at = 0; at < 20; at += 1) expect((await viewer.send(listTokens)).status).toBe(403);
    clock.advance(61_000);
    server.running.audit.flush();
    await server.running.audit.append(marker());
    const { items } = await server.as('admin').call(listAudit, { query: { limit: 100, outcome: 'refused' } });
    expect(items.toReversed().map(({ action, actor_name, code, count }) => [action, actor_name, code, count])).toEqual([
      ['listTokens', null, 'access.unauthenticated', 1],
      ['listTokens', 'test-viewer', 'access.forbidden', 1],
      ['listTokens', null, 'access.unauthenticated', 49],
      ['listTokens', 'test-viewer', 'access.forbidden', 19],
    ]);
  });

  test("nodes' own calls are no entries; an operator who makes one is", async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('web-1');
    const before = (await server.as('admin').call(listAudit)).items.length;
    await node.call(ackCommands, { body: { ids: [] } });
    expect((await server.as('operator').send(ackCommands, { body: { ids: [] } })).status).toBe(403);
    await server.running.audit.append(marker());
    const { items } = await server.as('admin').call(listAudit);
    expect(items.slice(0, items.length - before).map(({ action, code }) => [action, code])).toEqual([
      ['marker', null],
      ['ackCommands', 'access.forbidden'],
    ]);
  });

  test('hundreds at once, two processes on one PostgreSQL database: one chain without a gap', async () => {
    await using server = await startTestServer({ storage });
    const admin = server.as('admin');
    const other = storage === 'postgres' ? await secondStorage(server) : null;
    const append = auditRepository(other ?? server.running.storage).append;
    await Promise.all(
      Array.from({ length: 300 }, (_, at) => [
        admin.call(createToken, { body: { name: `t${at}`, role: 'viewer' } }),
        append(marker()),
      ]).flat(),
    );
    await other?.close();
    const verdict = verified(await exported(server));
    expect(verdict).toMatchObject({ intact: true, entries: 900, first_seq: 1, last_seq: 900 });
  });

  const fields = {
    at: 5,
    request_id: "'other'",
    actor_kind: "'node'",
    actor_id: 'null',
    actor_name: "'Mallory'",
    key_id: "'00'",
    action: "'listTokens'",
    targets: `'["other"]'`,
    summary: `'["role=admin"]'`,
    address: "'192.0.2.1'",
    outcome: "'refused'",
    code: "'access.forbidden'",
    count: 2,
    hash: `'${'ab'.repeat(32)}'`,
  };
  test('each field changed by SQL is found, and on which line', async () => {
    await using server = await stage({ storage });
    for (const [name, value] of Object.entries(fields)) {
      const { read } = server.running.storage;
      const before = await sql<
        Record<string, unknown>
      >`select ${sql.raw(name)} as v from access_audit where seq = 4`.execute(read);
      await run(server, `update access_audit set ${name} = ${value} where seq = 4`);
      const lines = await exported(server);
      const { findings } = verified(lines);
      const line = 1 + lines.findIndex((one) => one.includes('"seq":4,'));
      expect([name, findings[0]]).toMatchObject([name, { what: 'changed', seq: 4, line }]);
      expect(findings).toHaveLength(name === 'hash' ? 2 : 1);
      const old = before.rows[0]?.v;
      await run(
        server,
        `update access_audit set ${name} = ${old === null ? 'null' : typeof old === 'number' ? old : `'${String(old)}'`} where seq = 4`,
      );
      expect(verified(await exported(server)).intact).toBe(true);
    }
  });

  test('deleted, reordered, inserted, truncated and written anew: each is found', async () => {
    await using server = await stage({ storage });
    const kept = await newestHead(server);
    const good = await exported(server);
    expect(verified(good, [kept], server.running.rootFingerprint)).toMatchObject({
      intact: true,
      entries: 10,
      heads: 1,
      signed_seq: 10,
      kept: 1,
    });
    expect(verified(good, [kept], 'ab'.repeat(32)).findings[0]).toMatchObject({ what: 'untrusted', line: 1 });

    await run(server, 'update access_audit set seq = -seq where seq in (3, 5)');
    await run(server, 'update access_audit set seq = 8 + seq where seq in (-3, -5)'); // 3 and 5 change places
    expect(found(verified(await exported(server)))).toEqual([
      { what: 'changed', seq: 3 },
      { what: 'changed', seq: 4 },
      { what: 'changed', seq: 5 },
      { what: 'changed', seq: 6 },
    ]);
    await run(server, 'update access_audit set seq = -seq where seq in (3, 5)');
    await run(server, 'update access_audit set seq = 8 + seq where seq in (-3, -5)');
    expect(verified(await exported(server)).intact).toBe(true);

    const { rows } = await sql<AuditEntry>`select * from access_audit where seq = 7`.execute(
      server.running.storage.read,
    );
    await run(server, 'delete from access_audit where seq = 7');
    expect(found(verified(await exported(server)))).toEqual([{ what: 'missing', seq: 8 }]);
    await server.running.storage.write('test', async (tx) => {
      await tx
        .insertInto('access_audit')
        .values({ ...rows[0] } as never)
        .execute();
    });
    expect(verified(await exported(server)).intact).toBe(true);

    // The first ones gone without an anchor.
    await run(server, 'delete from access_audit where seq <= 2');
    expect(found(verified(await exported(server)))).toEqual([{ what: 'missing', seq: 3 }]);
    expect(found(verified([...good.slice(0, 2), ...good.slice(4)]))).toEqual([{ what: 'missing', seq: 3 }]);

    // The last ones gone, and everything in the database made to fit: only what the server's key signed tells.
    await using other = await stage({ storage });
    const head = await newestHead(other);
    await run(other, 'delete from access_audit where seq > 6');
    expect(found(verified(await exported(other)))).toEqual([
      { what: 'truncated', seq: 6 },
      { what: 'truncated', seq: 10 },
    ]);
    await run(other, 'update access_audit_head set seq = 6, hash = (select hash from access_audit where seq = 6)');
    await run(other, 'delete from access_audit_signed');
    expect(verified(await exported(other)).intact).toBe(true); // nothing in the database tells any more
    expect(found(verified(await exported(other), [head]))).toEqual([{ what: 'truncated', seq: 10 }]);

    // Written anew from entry 4 on, hashes and all.
    await using third = await stage({ storage });
    const thirdHead = await newestHead(third);
    await rewritten(third, 4);
    const verdict = verified(await exported(third), [thirdHead]);
    expect(found(verdict)).toEqual([
      { what: 'head_mismatch', seq: 10 },
      { what: 'head_mismatch', seq: 10 },
    ]);
  });

  test('lines of an export changed, moved, doubled, broken off', async () => {
    await using server = await stage({ storage });
    const good = await exported(server);
    const at = (seq: number) => good.findIndex((line) => line.includes(`"seq":${seq},`));
    const swapped = good.with(at(3), good[at(4)] ?? '').with(at(4), good[at(3)] ?? '');
    expect(found(verified(swapped))[0]).toEqual({ what: 'missing', seq: 4 });
    expect(found(verified(good.toSpliced(at(3), 0, good[at(3)] ?? '')))[0]).toEqual({ what: 'order', seq: 3 });
    expect(found(verified(good.slice(0, -1)))).toEqual([{ what: 'incomplete', seq: 10 }]);
    expect(found(verified(good.slice(0, 5)))).toMatchObject([{ what: 'incomplete' }]);
    expect(found(verified(good.with(at(3), '{}')))[0]).toEqual({ what: 'unreadable', seq: null });
    const doubled = (good[at(3)] ?? '').replace('"outcome":"begun"', '"outcome":"ok","outcome":"begun"');
    expect(found(verified(good.with(at(3), doubled)))[0]).toEqual({ what: 'unreadable', seq: null });
    expect(found(verified([]))).toEqual([{ what: 'incomplete', seq: null }]);
  });

  test('retention takes the oldest part alone and leaves a signed anchor', async () => {
    const clock = handClock();
    await using server = await stage({ storage, clock, config: { audit_retention_days: 1 } });
    const early = await newestHead(server);
    clock.advance(25 * 3_600_000);
    await server.as('admin').call(createToken, { body: { name: 'young', role: 'viewer' } });
    await server.running.audit.upkeep();
    const kept = await newestHead(server);
    const lines = await exported(server);
    expect(verified(lines, [kept])).toMatchObject({ intact: true, entries: 2, first_seq: 11, cut_seq: 10, kept: 1 });
    expect(verified(lines, [early])).toMatchObject({ intact: true, kept: 1 });
    await run(server, 'delete from access_audit where seq <= 11');
    expect(found(verified(await exported(server)))).toEqual([{ what: 'missing', seq: 12 }]);
    await run(server, "delete from access_audit_signed where kind = 'cut'");
    expect(found(verified(await exported(server)))[0]).toEqual({ what: 'missing', seq: 12 });
  });
});

const secondStorage = (server: TestServer) =>
  openServerStorage({
    dataDir: server.dataDir,
    databaseUrl: server.databaseUrl,
    keys: requireFleetKeys(server.dataDir, Date.now()),
  });

const marker = () => ({
  at: 0,
  request_id: 'm',
  actor_kind: 'server',
  actor_id: null,
  actor_name: null,
  key_id: null,
  action: 'marker',
  targets: [],
  summary: [],
  address: null,
  outcome: 'ok' as const,
  code: null,
  count: 1,
});

const run = (server: TestServer, text: string): Promise<unknown> =>
  server.running.storage.write('test', (tx) => sql.raw(text).execute(tx));

const rewritten = async (server: TestServer, from: number): Promise<void> => {
  const lines = (await exported(server)).map((line) => JSON.parse(line) as { type: string } & AuditEntry);
  let hash = lines.find(({ type, seq }) => type === 'entry' && seq === from - 1)?.hash ?? '';
  for (const { type, hash: _, ...fields } of lines) {
    if (type !== 'entry' || fields.seq < from) continue;
    const forged = { ...fields, actor_name: 'Mallory' };
    hash = auditHash(hash, forged);
    await run(server, `update access_audit set actor_name = 'Mallory', hash = '${hash}' where seq = ${fields.seq}`);
  }
  await run(server, `update access_audit_head set hash = '${hash}'`);
};

test('what is done on the data directory is in the chain of the running server, by whom and never a secret', async () => {
  await using server = await startTestServer();
  const { dataDir } = server;
  const by = { uid: 1000, name: 'alice' };
  const token = await issueToken({ dataDir, by, role: 'operator', name: 'ci', scope: 'site=fra', ttlSec: 60 });
  const [made] = await tokensThere({ dataDir, by });
  await revokeTokenThere({ dataDir, by, id: made?.id ?? '' });
  await expect(revokeTokenThere({ dataDir, by, id: 'nobody' })).rejects.toMatchObject({ code: 'access.unknown_token' });
  const joinToken = await issueJoinToken({ dataDir, by, ttlSec: 60, uses: 3, labels: { secret: 'label' } });
  const [join] = await joinTokensThere({ dataDir, by });
  await revokeJoinTokenThere({ dataDir, by, id: join?.id ?? '' });
  const { items } = await server.as('admin').call(listAudit, { query: { limit: 100 } });
  const asked = ['name=ci', 'role=operator', 'scope=site=fra', 'ttl_sec=60'];
  const [id, joinId] = [made?.id, join?.id];
  expect(
    items.toReversed().map(({ action, outcome, code, targets, summary }) => [action, outcome, code, targets, summary]),
  ).toEqual([
    ['createToken', 'begun', null, [], asked],
    ['createToken', 'ok', null, [id], asked],
    ['revokeToken', 'begun', null, [id], []],
    ['revokeToken', 'ok', null, [id], []],
    ['revokeToken', 'begun', null, ['nobody'], []],
    ['revokeToken', 'refused', 'access.unknown_token', ['nobody'], []],
    ['createJoinToken', 'begun', null, [], ['ttl_sec=60', 'uses=3']],
    ['createJoinToken', 'ok', null, [joinId], ['ttl_sec=60', 'uses=3']],
    ['revokeJoinToken', 'begun', null, [joinId], []],
    ['revokeJoinToken', 'ok', null, [joinId], []],
  ]);
  for (const { actor_kind, actor_id, actor_name, address } of items)
    expect([actor_kind, actor_id, actor_name, address]).toEqual(['local', '1000', 'alice', null]);
  const lines = await exported(server);
  expect(verified(lines)).toMatchObject({ intact: true, entries: 10 });
  for (const secret of [...token.split('.').slice(1), joinToken.split('.')[2] ?? ''])
    expect(lines.join('\n')).not.toContain(secret);
});
