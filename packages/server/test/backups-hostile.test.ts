import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { statementBytes } from '@aegis/archive/backup/statement';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import * as api from '@aegis/protocol/backups/agent-endpoints';
import { putConfig, runConfig, runLinks, showRun, verifyRun } from '@aegis/protocol/backups/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import {
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  ListPartsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type HostileS3, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { RADOSGW_REGION, type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { s3Store } from '../src/backups/s3/store.ts';
import { systemClock } from '../src/platform/clock.ts';
import { sentence } from './artifacts-support.ts';
import {
  createS3Config,
  finishRun,
  type NodeRun,
  nodeRun,
  sendRaw,
  sha256,
  startRun,
  uploadWhole,
} from './backups-s3-support.ts';
import { create, end, goodEnd, spec, start, starting } from './backups-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';
import { type Call, testClient } from './test-client.ts';

/** Nodes, agents, S3 servers and moments that were chosen to do harm, against the server's side of backups. */

const MIB = 1024 * 1024;
const HOUR = 3_600_000;
const ARCHIVE = Buffer.from('an archive');
const MANIFEST = Buffer.from('a manifest');
const OTHERS = 'fleet/other/archive.tar.zst';

let gateway: Radosgw;
let proxy: HostileS3;
let server: TestServer;
let node: EnrolledNode;
let bucket: string;
let clock: ReturnType<typeof handClock>;

beforeAll(async () => {
  gateway = await startRadosgw();
});
afterAll(() => gateway?.stop());
beforeEach(async () => {
  proxy = await startHostileS3(gateway.endpoint);
  clock = handClock();
  server = await startTestServer({ clock, config: { backups_s3_timeout_sec: 6, nodes_token_ttl_sec: 30 * 86_400 } });
  node = await server.enrol('web-1', { sealing_key: generateKeyPair('x25519').publicRaw.toString('base64') });
  bucket = await gateway.bucket();
});
afterEach(async () => {
  await server?.close();
  await proxy?.[Symbol.asyncDispose]();
});

const configured = async (destination: Record<string, unknown> = {}, more: Record<string, unknown> = {}) =>
  (await createS3Config(server, gateway, { bucket, endpoint: proxy.url, destination, more })).config_id;
const agentOf = async (access: string) => {
  const { agent } = await server.as('operator').call(api.registerAgent, { body: { name: 'mac' } });
  const configId = await configured({ access }, { nodes: [agent.node] });
  const client = testClient(
    () => server.url,
    async () => undefined,
  );
  const headers = { 'x-agent-api-key': agent.apiKey };
  const call = <E extends Endpoint>(endpoint: E, one: Call<E> = {}) => client.call(endpoint, { ...one, headers });
  return { call, start: () => call(api.agentStart, { body: { configId } }) };
};
const read = async (Key: string): Promise<string> => {
  const { Body } = await gateway.s3().send(new GetObjectCommand({ Bucket: bucket, Key }));
  return (await Body?.transformToString()) ?? '';
};
const openAt = async (): Promise<string[]> => {
  const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
  return Uploads.map(({ UploadId = '' }) => UploadId);
};
const shown = (id: string) => server.as('viewer').call(showRun, { params: { id } });
const goodEndOf = (configId: string, run: NodeRun) =>
  goodEnd(
    node,
    configId,
    run.grant,
    {
      archive: { name: 'archive.tar.zst', bytes: ARCHIVE.length, sha256: sha256(ARCHIVE) },
      manifest: { name: 'manifest.ndjson.zst', bytes: MANIFEST.length, sha256: sha256(MANIFEST) },
    },
    { archive_bytes: ARCHIVE.length, uploaded_bytes: ARCHIVE.length + MANIFEST.length },
  );
/** Past its time, with nothing heard. */
const lost = async (): Promise<void> => {
  for (let at = 0; at < 2; at++) {
    clock.advance(30 * HOUR);
    await server.running.backups.loss.turn();
  }
};

describe('headers that nobody signed', () => {
  beforeEach(() =>
    gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key: OTHERS, Body: Buffer.alloc(6 * MIB, 's') })),
  );

  test.each(['signed', 'presigned'])('%s: no part becomes a copy of what others have', async (access) => {
    const run = await startRun(node, await configured({ access, endpoint: gateway.endpoint }));
    const upload = await run.open();
    const body = Buffer.alloc(6 * MIB, 'x');
    for (const range of [{}, { 'x-amz-copy-source-range': `bytes=0-${body.length - 1}` }]) {
      const [signed] = await run.sign({
        method: 'PUT',
        key: upload.key,
        query: { uploadId: upload.upload_id, partNumber: '1' },
        content_length: body.length,
        payload_sha256: sha256(body),
      });
      const headers = { ...signed?.headers, 'x-amz-copy-source': `/${bucket}/${OTHERS}`, ...range };
      expect((await sendRaw('PUT', signed?.url ?? '', headers, body)).status).toBe(400);
    }
    const { Parts = [] } = await gateway
      .s3()
      .send(new ListPartsCommand({ Bucket: bucket, Key: upload.key, UploadId: upload.upload_id }));
    expect(Parts).toEqual([]);
  });

  test("an agent's link opens nothing to the public, and ends with its run", async () => {
    const agent = await agentOf('presigned');
    const { logId, uploadUrl = '' } = await agent.start();
    const { pathname, origin } = new URL(uploadUrl);
    const harm = { 'x-amz-copy-source': `/${bucket}/${OTHERS}`, 'x-amz-acl': 'public-read' };
    await sendRaw('PUT', uploadUrl, { ...harm, 'content-length': '0' });
    expect((await sendRaw('GET', `${origin}${pathname}`, {})).status).not.toBe(200);
    expect((await sendRaw('PUT', uploadUrl, { 'content-length': '10' }, ARCHIVE)).status).toBe(200);
    await agent.call(api.agentComplete, { body: { logId, status: 'completed' } });
    expect((await sendRaw('GET', `${origin}${pathname}`, {})).status).toBe(403);
    expect((await sendRaw('PUT', uploadUrl, { ...harm, 'content-length': '0' })).status).toBe(404);
    expect((await sendRaw('PUT', uploadUrl, { 'content-length': '1' }, Buffer.from('x'))).status).toBe(404);

    const { links } = await server.as('operator').call(runLinks, { params: { id: logId } });
    expect(links.map(({ object, key }) => [object, `/${bucket}/${key}`])).toEqual([['archive', pathname]]);
    expect((await sendRaw('GET', links[0]?.url ?? '', {})).text).toBe('an archive');
    expect(await openAt()).toEqual([]);
  });
});

describe('runs', () => {
  test('a node does not pass for an agent, which has no statement to give', async () => {
    const configId = await configured();
    for (const trigger of ['agent', 'server'] as const)
      expect(await sentence(start(node, starting(configId, { trigger })))).toBe(
        "400 http.malformed: The body's field 'trigger' is none of a node's: it is schedule, missed or request.",
      );
  });

  test('what is lost for good leaves no upload', async () => {
    const run = await startRun(node, await configured({}, { limits: { run_sec: 3600 } }));
    await run.open();
    await lost();
    expect((await shown(run.id)).state).toBe('lost');
    await server.running.backups.s3.sweep();
    expect(await openAt()).toEqual([]);
  });

  test('what retention has removed does not come back', async () => {
    const configId = await configured({}, { limits: { run_sec: 3600 }, retention: { keep_last: 1 } });
    const run = await startRun(node, configId);
    await uploadWhole(run, 'archive', [ARCHIVE]);
    await run.put(run.key('manifest'), MANIFEST);
    const told = goodEndOf(configId, run);
    if (told.statement) await run.put(run.key('statement'), statementBytes(told.statement));
    // Marked; S3 lets nothing go for now.
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('backups_runs').set({ state: 'lost', removed_at: clock.now() }).execute();
    });
    const refusal = `409 backups.run_ended: The run ${run.id} has ended (removed by retention): nothing of it changes any more.`;
    expect(await sentence(end(node, run.id, told))).toBe(refusal);
    expect(await sentence(run.open())).toBe(refusal);
    expect(await sentence(start(node, { ...starting(configId), run_id: run.id, attempt: 2 }))).toBe(refusal);
    expect(await sentence(run.put(run.key('manifest'), MANIFEST))).toMatch(
      /^403 backups\.sign_refused: Not signed: Retention has removed the run: /,
    );
    expect((await shown(run.id)).state).toBe('lost');
  });

  test('no run is good whose statement at the destination is another one of the same length', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    const told = finishRun(node, configId, run, ARCHIVE, async () => {
      const Body = (await read(run.key('statement'))).replace(/.$/, ']');
      await gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key: run.key('statement'), Body }));
    });
    expect(await sentence(told)).toBe(
      '422 backups.upload_mismatch: The statement at the destination is not the one that was sent with the end. Start another attempt.',
    );
    expect((await shown(run.id)).state).toBe('running');
  });

  test('the uploads of an attempt are aborted where it was, not where the next one goes', async () => {
    const configId = await configured();
    const request = starting(configId);
    const first = nodeRun(node, await start(node, request));
    await first.open();
    const elsewhere = { kind: 's3', bucket: await gateway.bucket(), region: RADOSGW_REGION, endpoint: proxy.url };
    await server.as('operator').call(putConfig, {
      params: { id: configId },
      body: { spec: spec({ nodes: ['all'], destination: { ...elsewhere, path_style: true } }), probe: false },
    });
    await start(node, { ...request, attempt: 2, generation: 2 });
    await expect.poll(openAt, { timeout: 10_000 }).toEqual([]);
  });
});

describe('what S3 says', () => {
  test('a 404 of something that is no S3 server is no damage', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    await finishRun(node, configId, run, ARCHIVE);
    proxy.misbehave((_from, to) => void to.writeHead(404, { 'content-type': 'text/html' }).end('<html>no</html>'));
    expect(await sentence(server.as('operator').call(verifyRun, { params: { id: run.id } }))).toMatch(
      /^503 backups\.destination_failed: Reading an object failed for .*404\)/,
    );
    expect((await shown(run.id)).verified).toBeNull();
  });

  test('what is removed while it is verified is not damaged', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    await finishRun(node, configId, run, ARCHIVE);
    proxy.misbehave((_from, to) => {
      void server.running.storage
        .write('test', async (tx) => {
          await tx.updateTable('backups_runs').set({ removed_at: clock.now() }).execute();
        })
        .then(() => to.writeHead(404).end('<Error><Code>NoSuchKey</Code></Error>'));
    });
    expect(await sentence(server.as('operator').call(verifyRun, { params: { id: run.id } }))).toMatch(
      /^404 backups\.unknown_object: The run .* has no archive to verify \(removed\)/,
    );
    expect((await shown(run.id)).verified).toBeNull();
  });

  test('a bucket that got versions later keeps nothing of what is removed', async () => {
    const configId = await configured({}, { retention: { keep_last: 1 } });
    const finished = async () => {
      const run = await startRun(node, configId);
      await finishRun(node, configId, run, ARCHIVE);
      clock.advance(1000);
      return run;
    };
    const first = await finished();
    const versions = { Bucket: bucket, VersioningConfiguration: { Status: 'Enabled' } } as const;
    await gateway.s3().send(new PutBucketVersioningCommand(versions));
    await finished();
    await server.running.backups.upkeep.retention.turn();
    const left = await gateway.s3().send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: first.grant.prefix }));
    expect([left.Versions ?? [], left.DeleteMarkers ?? []]).toEqual([[], []]);
  });

  test('an answer of STS without end is not read to its end', async () => {
    let sent = 0;
    const chunk = Buffer.alloc(MIB, 'x');
    const endless = createServer((_from, to) => {
      const more = (): void => {
        while (!to.destroyed && to.write(chunk)) sent += chunk.length;
      };
      to.writeHead(200, { 'content-type': 'text/xml' }).on('drain', more);
      more();
    });
    await new Promise<void>((resolve) => endless.listen(0, '127.0.0.1', resolve));
    try {
      const endpoint = `http://127.0.0.1:${(endless.address() as AddressInfo).port}`;
      const configId = await configured({ access: 'sts', sts: { role_arn: gateway.roleArn, endpoint } });
      expect(await sentence(start(node, starting(configId)))).toMatch(/answer was longer than any answer of S3/);
      expect(sent).toBeLessThan(256 * MIB);
    } finally {
      endless.closeAllConnections();
      endless.close();
    }
  });

  test('a listing without end is not kept', async () => {
    let page = 0;
    proxy.misbehave((_from, to) => {
      page++;
      const keys = Array.from(
        { length: 1000 },
        (_, at) => `<Version><Key>a/${page}-${at}</Key><VersionId>v</VersionId></Version>`,
      );
      to.writeHead(200, { 'content-type': 'application/xml' }).end(
        `<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a/${page}</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>${keys.join('')}</ListVersionsResult>`,
      );
    });
    const destination = spec({
      destination: { kind: 's3', bucket, endpoint: proxy.url, path_style: true },
    }).destination;
    if (destination.kind !== 's3') throw new Error('not S3');
    const store = s3Store(
      destination,
      { access_key_id: gateway.accessKey, secret_access_key: gateway.secretKey },
      { clock: systemClock },
    );
    await expect(store.deleteBelow('a/')).rejects.toThrow('EndlessListing');
    expect(page).toBeLessThan(200);
    await store.close();
  });
});

describe('configurations', () => {
  test('get credentials anew where the key of the stored ones is lost', async () => {
    const configId = await configured();
    rmSync(join(server.dataDir, 'keys', 'backups-credentials.key'));
    await server.restart();
    const destination = { kind: 's3', bucket, region: RADOSGW_REGION, prefix: 'fleet/a', endpoint: proxy.url };
    const change = { spec: spec({ nodes: ['all'], destination: { ...destination, path_style: true } }), probe: false };
    const put = (more: object) =>
      server.as('operator').call(putConfig, { params: { id: configId }, body: { ...change, ...more } });
    expect(await sentence(put({}))).toMatch(/^422 backups\.bad_destination: The stored credentials .* give the/);
    await put({ credentials: { access_key_id: gateway.accessKey, secret_access_key: gateway.secretKey } });
    const run = await startRun(node, configId);
    await finishRun(node, configId, run, ARCHIVE);
    expect((await shown(run.id)).state).toBe('completed');
  });

  test.each([
    ['itself', (data: string) => [data]],
    ['in it', (data: string) => [join(data, 'keys')]],
    ['beside what is above it', (data: string) => [dirname(data), join(data, 'keys')]],
    ['by a link', (data: string) => [join(dirname(data), 'link')]],
    ['behind a link', (data: string) => [join(dirname(data), 'link', 'root.pem')]],
    ['written otherwise', (data: string) => [dirname(data).replace(/\/([^/]+)$/, '//$1/')]],
  ])("the server's own data directory is no source: %s", async (_, sourcesOf) => {
    const folder = mkdtempSync(join(tmpdir(), 'aegis-own-hostile-'));
    try {
      const [data, to] = [join(folder, 'srv', 'aegis'), join(folder, 'to')];
      for (const path of [data, to]) mkdirSync(path, { recursive: true });
      symlinkSync(join(data, 'keys'), join(folder, 'srv', 'link'));
      writeFileSync(join(folder, 'srv', 'harmless'), 'x');
      await using own = await startTestServer({
        dataDir: data,
        config: { backups_server_sources: [join(folder, 'srv')], backups_server_destinations: [to] },
      });
      const destination = { kind: 'file', path: to };
      await create(own, { execution_mode: 'server', sources: sourcesOf(data), destination }).then(
        async ({ config }) => {
          const { run_id } = await own.as('operator').call(runConfig, { params: { id: config.config_id } });
          const state = async () => (await own.as('viewer').call(showRun, { params: { id: run_id } })).state;
          await expect.poll(state, { timeout: 20_000 }).not.toBe('running');
        },
        (error: Error) => expect(error.message).toMatch(/data directory/),
      );
      const archives = readdirSync(to, { recursive: true, encoding: 'utf8' }).filter((name) => /archive/.test(name));
      const listed = archives.map((name) => execFileSync('tar', ['-I', 'zstd', '-tf', join(to, name)]).toString());
      expect(listed.join('')).not.toMatch(/keys\/.|\.pem/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test('a destination that hardly answers does not keep others from theirs', async () => {
    await using slow = await startTestServer({ config: { backups_s3_timeout_sec: 3600 } });
    proxy.misbehave('hang');
    const s3 = { kind: 's3', bucket, endpoint: proxy.url, path_style: true };
    const change = { probe: true, credentials: { access_key_id: 'abc', secret_access_key: 'abcdefgh' } };
    const hanging = create(slow, { name: 'slow', destination: s3 }, change).catch((error: Error) => error.message);
    await expect.poll(() => proxy.seen.length).toBeGreaterThan(0);
    expect((await create(slow, { name: 'quick' })).changed).toBe(true);
    proxy.cut();
    expect(await hanging).toMatch(/The destination cannot be used/);
  });
});
