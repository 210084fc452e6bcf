import { execFile } from 'node:child_process';
import { createHash, createHmac, createPrivateKey } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { zstdDecompressSync } from 'node:zlib';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createS3Config, finishRun, sendRaw, startRun } from '../../packages/server/test/backups-s3-support.ts';
import {
  ARCHIVE_BYTES,
  BODY,
  hostileRequests,
  nearest,
  type Stage,
} from '../../packages/server/test/backups-signing-requests.ts';
import { end, failedEnd } from '../../packages/server/test/backups-support.ts';
import {
  type EnrolledNode,
  enrolThrough,
  handClock,
  startTestServer,
} from '../../packages/server/test/start-test-server.ts';
import { Refused, testClient } from '../../packages/server/test/test-client.ts';
import type { SeenRequest } from '../faults/hostile-s3.ts';
import { formsOf, foundInBytes, foundInFiles, foundInProcess, type Needles } from '../faults/secret-search.ts';
import { waitFor } from '../faults/wait.ts';
import { type BackupFleet, startBackupFleet } from '../fleet/backup-fleet.ts';
import { aegis, cleanEnv } from '../fleet/fleet.ts';

/** Where the server signs, no credential of S3 exists on a node, nor any other secret of the server's; and what is signed is of no use for
 *  anything else. Real server, daemon and S3 server; the traffic of both goes through recorders. */

let on: BackupFleet;
beforeAll(async () => {
  // Requests that hang stay so for as long as it takes to look.
  on = await startBackupFleet(
    { env: { AEGIS_COMPRESS: 'off' } },
    {
      AEGIS_BACKUPS_STALL_SEC: '600',
      AEGIS_BACKUPS_RETRY_SEC: '600',
    },
  );
}, 120_000);
afterAll(() => on?.[Symbol.asyncDispose]());

const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
/** The secret and every key that Signature Version 4 derives from it, for today and for tomorrow. */
const credentialsOf = (secret: string): Needles => {
  const forms = formsOf('secret access key', secret);
  for (const days of [0, 1]) {
    const date = new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10).replaceAll('-', '');
    let key: string | Buffer = `AWS4${secret}`;
    for (const part of [date, 'us-east-1', 's3', 'aws4_request']) {
      key = hmac(key, part);
      forms.push(...formsOf(`key derived by ${part} of ${date}`, key));
    }
  }
  return new Map(forms);
};
/** What lies in the server's own folder of keys, in the forms that it has there and when it is used. */
const secretsOf = (serverData: string): Needles => {
  const forms: [string, Buffer][] = [];
  const folder = join(serverData, 'keys');
  for (const name of readdirSync(folder)) {
    const text = readFileSync(join(folder, name), 'utf8');
    if (name.endsWith('.pem')) {
      forms.push(...formsOf(name, createPrivateKey(text).export({ type: 'pkcs8', format: 'der' }).subarray(-32)));
      continue;
    }
    const values = name.endsWith('.json') ? Object.values(JSON.parse(text) as Record<string, string>) : [text.trim()];
    for (const [at, value] of values.entries())
      forms.push(...formsOf(`${name} ${at}`, value), ...formsOf(`${name} ${at} raw`, Buffer.from(value, 'base64url')));
  }
  return new Map(forms);
};
const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');
const isRead = ({ method, path }: SeenRequest): boolean => method === 'GET' && path.includes('archive.tar');

test('in the middle of a backup and of a restore no secret is in memory, files, environment, arguments, logs or traffic', async () => {
  const { fleet, s3, proxy } = on;
  const [node] = fleet.nodes;
  if (!node) throw new Error('no node');
  const serverData = join(fleet.folder, 'server');
  const source = on.plant('secrets', 12);
  const traffic: Buffer[] = [];
  fleet.network.record((bytes) => traffic.push(bytes));
  await on.configure('first', { sources: [source] });
  await on.begin('first');
  const [first] = await on.over('first');
  expect(first?.state).toBe('completed');
  await on.configure('second', { sources: [source] });

  const needles: Needles = new Map([
    ...credentialsOf(s3.secretKey),
    ...secretsOf(serverData),
    ...formsOf("the operator's token", fleet.token),
  ]);
  expect(needles.size).toBeGreaterThan(50);
  for (const needle of needles.values()) if (needle.length <= 512) proxy.watch(needle.toString('latin1'));
  proxy.misbehave('hang', (ask) => (isPart(ask) && ask.query.get('partNumber') === '2') || isRead(ask));
  await on.begin('second');
  const restoring = on.tryAegis(
    ...['backups', 'restore', first?.run_id ?? '', '--node', node.name, '--target', join(fleet.folder, 'back')],
  );
  await waitFor('both to be in the middle', () => proxy.seen.filter(({ fault }) => fault === 'hang').length >= 2);

  const pid = node.daemon.pid ?? 0;
  // What is surely there: the search finds things.
  const known: Needles = new Map([
    ['the run', Buffer.from(first?.run_id ?? '')],
    ['a signature', Buffer.from('AWS4-HMAC-SHA256 Credential=')],
  ]);
  expect(await foundInProcess(pid, known)).toEqual(['a signature', 'the run']);
  expect(foundInFiles(node.dataDir, known)).toContain('the run');
  const itself: Needles = new Map([['secret access key', Buffer.from(s3.secretKey)]]);
  expect(await foundInProcess(fleet.server.pid ?? 0, itself)).toEqual(['secret access key']);

  const processes = [pid, ...descendantsOf(pid)];
  expect(processes.length).toBeGreaterThan(1); // the restore is a command of its own
  for (const one of processes) expect([one, await foundInProcess(one, needles)]).toEqual([one, []]);
  expect(foundInFiles(node.dataDir, needles)).toEqual([]);
  for (const log of [node.daemon.log(), fleet.server.log()])
    expect(foundInBytes(Buffer.from(log), needles)).toEqual([]);
  proxy.mend();
  expect((await restoring).status).toBe(0);
  await on.over('second');
  expect(await on.faults('second', source)).toEqual([]);
  expect(traffic.length).toBeGreaterThan(20);
  const passed = Buffer.concat(traffic.flatMap((bytes) => [bytes, unpacked(bytes)]));
  expect(foundInBytes(passed, known)).toEqual(['a signature', 'the run']);
  expect(foundInBytes(passed, needles)).toEqual([]);
  expect([...proxy.found]).toEqual([]);
  // At rest on the server it is encrypted.
  expect(foundInFiles(serverData, credentialsOf(s3.secretKey))).toEqual([]);
}, 180_000);

const unpacked = (bytes: Buffer): Buffer => {
  try {
    return zstdDecompressSync(bytes);
  } catch {
    return Buffer.alloc(0); // plain
  }
};
const descendantsOf = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
      .split(' ')
      .filter((one) => one !== '')
      .flatMap((one) => [Number(one), ...descendantsOf(Number(one))]),
  );

describe('a node that asks for more', () => {
  const stage = {} as Stage; // filled by beforeAll
  const serverData = () => join(on.fleet.folder, 'server');
  const anyone = testClient(
    () => on.fleet.url,
    async () => undefined,
  );
  const enrol = async (name: string): Promise<EnrolledNode> => {
    const argv = ['server', 'join-token', '--ttl', '1h', '--uses', '1', '--data-dir', serverData()];
    const { stdout } = await promisify(execFile)(aegis, argv, { env: cleanEnv(on.fleet.folder) });
    const { id, secret, rootFingerprint } = parseJoinToken(stdout.trim());
    const { trust_bundle } = await anyone.call(showTrust);
    const { fleet } = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString()) as { fleet: string };
    const keys = generateKeyPair();
    const facts = { host_id: name, token_id: id };
    const { token, agent_uid: uid } = await enrolThrough(anyone, facts, keys, secret, { fleet, rootFingerprint });
    const client = testClient(
      () => on.fleet.url,
      async () => token,
    );
    return { ...client, uid, name, keys, token };
  };
  const audits = (): string[] => {
    const db = new Database(join(serverData(), 'aegis.db'), { readonly: true });
    try {
      return db
        .prepare<[], string>("SELECT node_uid || ' ' || action || ': ' || reason FROM backups_audit ORDER BY id")
        .pluck()
        .all();
    } finally {
      db.close();
    }
  };

  beforeAll(async () => {
    const [node, other] = await Promise.all([enrol('hostile'), enrol('neighbour')]);
    const operator = testClient(
      () => on.fleet.url,
      async () => on.fleet.token,
    );
    const config = await createS3Config({ as: () => operator }, on.s3, {
      bucket: on.bucket,
      more: { nodes: ['hostile', 'neighbour'], limits: { archive_bytes: ARCHIVE_BYTES } },
    });
    const foreign = await startRun(other, config.config_id);
    await finishRun(other, config.config_id, foreign, Buffer.from('an archive'));
    const failed = await startRun(node, config.config_id);
    await end(node, failed.id, failedEnd());
    const run = await startRun(node, config.config_id);
    const upload = await run.open('archive');
    const second = await startRun(node, config.config_id);
    Object.assign(stage, { node, bucket: on.bucket, run, upload, second, foreign, failed });
  }, 60_000);

  test('is refused, and each time it is written down', async () => {
    const before = audits().length;
    const objects = await on.objects();
    const all = Object.entries(hostileRequests(stage));
    expect(all.length).toBeGreaterThanOrEqual(40);
    const told: string[] = [];
    for (const [, { as: which, wanted }] of all)
      told.push(
        await stage[which ?? 'run'].sign(wanted()).then(
          () => 'signed',
          (error: unknown) => (error instanceof Refused ? error.message : String(error)),
        ),
      );
    expect(told).toEqual(all.map(([, { sentence }]) => `403 backups.sign_refused: Not signed: ${sentence}`));
    expect(audits().slice(before)).toEqual(all.map(([, { sentence }]) => `${stage.node.uid} sign: ${sentence}`));
    const logged = () =>
      on.fleet.server
        .log()
        .split('\n')
        .filter((line) => line.includes('a node asked for what it may not'));
    await waitFor('the log to be written', () => logged().length >= all.length);
    expect(logged()).toHaveLength(all.length);
    expect(await on.objects()).toEqual(objects);
  }, 60_000);

  test('cannot use what was signed for one thing for another', async () => {
    const objects = await on.objects();
    const near = nearest(stage);
    const [part, put, get] = await stage.run.sign(near.part(), near.put(), near.get());
    const longer = Buffer.concat([BODY, BODY]);
    const refused: string[] = [];
    const tried = async (what: string, method: string, url: string, headers: Record<string, string>, body?: Buffer) => {
      const { status } = await sendRaw(method, url, headers, body).catch(() => ({ status: 400 }));
      refused.push(...(status >= 400 ? [] : [what]));
    };
    for (const { url, headers } of [part, put].flatMap((one) => one ?? [])) {
      const length = (body: Buffer) => ({ ...headers, 'content-length': String(body.length) });
      const hash = { 'x-amz-content-sha256': createHash('sha256').update(longer).digest('hex') };
      await tried(
        'another part',
        'PUT',
        url.replace('partNumber=1', 'partNumber=2').replace('.json', '.jso'),
        headers,
        BODY,
      );
      await tried('another key', 'PUT', url.replace(/archive\.tar|statement/, 'manifest'), headers, BODY);
      await tried('another run', 'PUT', url.replace(stage.run.id, stage.second.id), headers, BODY);
      await tried('another node', 'PUT', url.replace(stage.node.uid, stage.node.uid.replace(/.$/, 'x')), headers, BODY);
      await tried('a longer body', 'PUT', url, length(longer), longer);
      await tried('a longer body, its hash too', 'PUT', url, { ...length(longer), ...hash }, longer);
      await tried('a shorter body', 'PUT', url, length(BODY.subarray(1)), BODY.subarray(1));
      await tried('another body', 'PUT', url, headers, Buffer.from('ydob'));
      const { 'if-none-match': condition, ...unconditional } = headers;
      if (condition !== undefined) await tried('without its condition', 'PUT', url, unconditional, BODY);
      for (const method of ['DELETE', 'POST', 'GET']) await tried(method, method, url, headers);
      const later = { ...headers, 'x-amz-date': '20990101T000000Z' };
      await tried('another date', 'PUT', url, later, BODY);
    }
    const { url = '', headers = {} } = get ?? {};
    await tried('a delete by a read', 'DELETE', url, headers);
    await tried('a read of a neighbour', 'GET', url.replace(/\/[^/]*$/, '/../../x'), headers);
    await tried('a listing by a read', 'GET', `${on.s3.endpoint}/${on.bucket}?list-type=2`, headers);
    expect(refused).toEqual([]);
    expect(await on.objects()).toEqual(objects);
    // And it is good for what it was signed for.
    expect((await sendRaw('PUT', put?.url ?? '', put?.headers ?? {}, BODY)).status).toBe(200);
  }, 60_000);

  // A server and a bucket of its own for each.
  test.concurrent.each(['signed', 'presigned'])('cannot use it later (%s)', async (access) => {
    const clock = handClock(Date.now() - 20 * 60_000);
    await using server = await startTestServer({ clock });
    const node = await server.enrol('web-1');
    const bucket = await on.s3.bucket();
    const { config_id } = await createS3Config(server, on.s3, { bucket, destination: { access } });
    const run = await startRun(node, config_id);
    const sign = async (wanted: Partial<WantedRequest>) => (await run.sign(wanted))[0];
    const { put } = nearest({ ...stage, node, bucket, run });
    const late = await sign(put());
    expect((await sendRaw('PUT', late?.url ?? '', late?.headers ?? {}, BODY)).status).toBe(403);
    clock.advance(20 * 60_000);
    const fresh = await sign(put());
    expect((await sendRaw('PUT', fresh?.url ?? '', fresh?.headers ?? {}, BODY)).status).toBe(200);
  });
});
