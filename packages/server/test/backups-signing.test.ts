import { createHash } from 'node:crypto';
import { cancelRun, grantRestore } from '@aegis/protocol/backups/endpoints';
import { restoreSource, type WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import { DeleteObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { renewToken, sentence } from './artifacts-support.ts';
import { createS3Config, finishRun, type NodeRun, nodeRun, sendRaw, sha256, startRun } from './backups-s3-support.ts';
import { ARCHIVE_BYTES, BODY, hostileRequests, MAX_BYTES, nearest, type Stage } from './backups-signing-requests.ts';
import { end, failedEnd, start, starting } from './backups-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** What the server signs for nodes works at a real S3 server, and nothing else is signed, nor taken by that server when it is sent with the
 *  nearest signature that can be had. */

let gateway: Radosgw;
let server: TestServer;
let node: EnrolledNode;
let configId: string;
let clock: ReturnType<typeof handClock>;
const stage = {} as Stage; // filled by beforeAll

beforeAll(async () => {
  gateway = await startRadosgw();
  clock = handClock();
  server = await startTestServer({ clock });
  node = await server.enrol('web-1');
  const other = await server.enrol('web-2');
  const bucket = await gateway.bucket();
  const config = await createS3Config(server, gateway, { bucket, more: { limits: { archive_bytes: ARCHIVE_BYTES } } });
  configId = config.config_id;
  const foreign = await startRun(other, configId);
  await finishRun(other, configId, foreign, Buffer.from('an archive'));
  const failed = await startRun(node, configId);
  await end(node, failed.id, failedEnd());
  const run = await startRun(node, configId);
  const upload = await run.open('archive');
  Object.assign(stage, { node, bucket, run, upload, second: await startRun(node, configId), foreign, failed });
});
afterAll(async () => {
  await server?.close();
  await gateway?.stop();
});

const md5 = (bytes: Buffer): string => createHash('md5').update(bytes).digest('hex');
const objects = async (): Promise<string[]> => {
  const { Contents = [] } = await gateway.s3().send(new ListObjectsV2Command({ Bucket: stage.bucket }));
  const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: stage.bucket }));
  return [
    ...Contents.map(({ Key, Size, ETag }) => `${Key} ${Size} ${ETag}`),
    ...Uploads.map(({ Key, UploadId }) => `${Key} upload ${UploadId}`),
  ];
};
const audits = async (): Promise<string[]> =>
  (await server.running.storage.read.selectFrom('backups_audit').selectAll().orderBy('id').execute()).map(
    ({ node_uid, action, reason }) => `${node_uid} ${action}: ${reason}`,
  );

describe('what is signed works', () => {
  test('parts, creating puts, reads with ranges, heads and listings', async () => {
    const own = await startRun(node, configId);
    await finishRun(node, configId, own, Buffer.from('an archive'));
    const { run } = stage;
    const read = async (wanted: Partial<WantedRequest>) => {
      const [signed] = await run.sign(wanted);
      return sendRaw(wanted.method ?? 'GET', signed?.url ?? '', signed?.headers ?? {});
    };
    const key = own.key('archive');
    expect((await read({ key })).text).toBe('an archive');
    expect((await read({ key, query: { 'x-id': 'GetObject' } })).text).toBe('an archive');
    expect(await read({ key, headers: { range: 'bytes=3-9' } })).toMatchObject({ status: 206, text: 'archive' });
    expect(await read({ method: 'HEAD', key })).toMatchObject({ status: 200, text: '' });
    const listing = await read({
      query: { 'list-type': '2', prefix: `fleet/a/${node.uid}/`, 'max-keys': '1000', delimiter: '/' },
    });
    expect([...listing.text.matchAll(/<Prefix>([^<]*)<\/Prefix>/g)].map(([, one]) => one)).toEqual([
      `fleet/a/${node.uid}/`,
      `fleet/a/${node.uid}/${configId}/`,
    ]);
    expect(await audits()).toEqual([]);
  });

  test('a batch is answered in its order, each signature for its request alone', async () => {
    const { run, upload } = stage;
    const signed = await run.sign(
      ...[1, 2, 3].map((number) => ({
        method: 'PUT' as const,
        key: upload.key,
        query: { uploadId: upload.upload_id, partNumber: String(number), 'x-id': 'UploadPart' },
        content_length: number,
        payload_sha256: sha256('x'.repeat(number)),
      })),
    );
    for (const [at, { url, headers }] of signed.entries()) {
      expect(new URL(url).searchParams.get('partNumber')).toBe(String(at + 1));
      expect(await sendRaw('PUT', url, headers, Buffer.from('x'.repeat(at + 1)))).toMatchObject({ status: 200 });
      // Another body of the same length, and the same one under another number.
      expect((await sendRaw('PUT', url, headers, Buffer.from('y'.repeat(at + 1)))).code).toBe(
        'XAmzContentSHA256Mismatch',
      );
      const elsewhere = url.replace(`partNumber=${at + 1}`, 'partNumber=9');
      expect((await sendRaw('PUT', elsewhere, headers, Buffer.from('x'.repeat(at + 1)))).status).toBe(403);
    }
  });

  test('every header of x-amz, the host and the length are signed', async () => {
    const { run } = stage;
    const [put, get] = await run.sign(
      {
        method: 'PUT',
        key: run.key('manifest'),
        headers: { 'if-none-match': '*', 'content-type': 'application/octet-stream' },
        content_length: 4,
        payload_sha256: sha256(BODY),
      },
      { key: `fleet/a/${node.uid}/any`, headers: { range: 'bytes=0-1' } },
    );
    const namesOf = (headers: Record<string, string> = {}) =>
      /SignedHeaders=([^,]*),/.exec(headers.authorization ?? '')?.[1];
    expect(namesOf(put?.headers)).toBe(
      'content-length;content-type;host;if-none-match;x-amz-content-sha256;x-amz-date',
    );
    expect(namesOf(get?.headers)).toBe('host;range;x-amz-content-sha256;x-amz-date');
    expect(put?.headers['content-length']).toBe('4');
    expect(Date.parse(put?.expires_at ?? '') - Date.now()).toBeLessThanOrEqual(15 * 60_000);
  });

  test('an object is created once: the second put is refused by S3, and the first stays', async () => {
    const own = await startRun(node, configId);
    const key = own.key('manifest');
    expect((await own.put(key, BODY)).status).toBe(200);
    expect(await own.put(key, Buffer.from('other'))).toMatchObject({ status: 412, code: 'PreconditionFailed' });
    const [signed] = await own.sign({ key });
    expect((await sendRaw('GET', signed?.url ?? '', signed?.headers ?? {})).text).toBe('body');
    await end(node, own.id, failedEnd());
  });
});

describe('what is refused', () => {
  const requests = hostileRequests(stage);

  test.each(Object.entries(requests))(
    '%s',
    async (_name, { as: which, wanted, sentence: expected, near, without, heeded }) => {
      const before = await objects();
      const audited = (await audits()).length;
      const asked = wanted();
      expect(await sentence(stage[which ?? 'run'].sign(asked))).toBe(
        `403 backups.sign_refused: Not signed: ${expected}`,
      );
      expect((await audits()).slice(audited)).toEqual([`${stage.node.uid} sign: ${expected}`]);
      if (near !== undefined) {
        const [signed] = await stage.run.sign(nearest(stage)[near]());
        const { method = 'GET', key = '', query = {}, headers = {} } = asked;
        const search = new URLSearchParams(query).toString();
        const path = key.split('/').map(encodeURIComponent).join('/');
        const url = `${gateway.endpoint}/${stage.bucket}/${path}${search && `?${search}`}`;
        const body = near === 'put' || near === 'part' ? BODY : Buffer.alloc(0);
        const hash = asked.payload_sha256 === undefined ? {} : { 'x-amz-content-sha256': asked.payload_sha256 };
        const all: Record<string, string> = { ...signed?.headers, ...headers, ...hash };
        const sent = Object.fromEntries(Object.entries(all).filter(([header]) => header !== without));
        const answer = await sendRaw(method, url, sent, body);
        if (heeded) {
          expect(answer.status, answer.text).toBe(200);
          const own = `${stage.run.key('statement')} ${BODY.length} "${md5(BODY)}"`;
          expect((await objects()).filter((one) => !before.includes(one))).toEqual([own]);
          await gateway.s3().send(new DeleteObjectCommand({ Bucket: stage.bucket, Key: stage.run.key('statement') }));
        } else expect(answer.status, answer.text).toBeGreaterThanOrEqual(400);
      }
      expect(await objects()).toEqual(before);
    },
  );

  test('there are enough of them', () => {
    expect(Object.keys(requests).length).toBeGreaterThanOrEqual(40);
  });
});

describe('what changes while a run goes on', () => {
  const part = (of: NodeRun, upload: { upload_id: string; key: string }, number: number, bytes: number) =>
    of.sign({
      method: 'PUT',
      key: upload.key,
      query: { uploadId: upload.upload_id, partNumber: String(number) },
      content_length: bytes,
      payload_sha256: sha256('any'),
    });
  const tooMuch = `403 backups.sign_refused: Not signed: The run would grow beyond the ${MAX_BYTES} bytes that it may write.`;

  test('what it may still write: a part sent again counts once, and a batch counts whole or not at all', async () => {
    const run = await startRun(node, configId);
    const upload = await run.open('archive');
    const half = MAX_BYTES / 2;
    await part(run, upload, 1, half);
    await part(run, upload, 1, half);
    expect(await sentence(part(run, upload, 2, half + 1))).toBe(tooMuch);
    const one = (number: number, bytes: number) => ({
      method: 'PUT' as const,
      key: upload.key,
      query: { uploadId: upload.upload_id, partNumber: String(number) },
      content_length: bytes,
      payload_sha256: sha256('any'),
    });
    expect(await sentence(run.sign(one(2, half - 1), one(3, 2)))).toBe(tooMuch);
    await run.sign(one(2, half - 1), one(3, 1));
    expect(await sentence(part(run, upload, 4, 1))).toBe(tooMuch);
    await end(node, run.id, failedEnd());
  });

  test('a restart of the server forgets nothing that S3 has', async () => {
    const run = await startRun(node, configId);
    const upload = await run.open('archive');
    expect((await run.part(upload, 1, BODY)).status).toBe(200);
    expect((await run.put(run.key('manifest'), BODY)).status).toBe(200);
    await server.restart();
    expect(await sentence(part(run, upload, 2, MAX_BYTES - 2 * BODY.length + 1))).toBe(tooMuch);
    await part(run, upload, 2, MAX_BYTES - 2 * BODY.length);
    await end(node, run.id, failedEnd());
  });

  test('nor what S3 has of an attempt without any upload', async () => {
    const run = await startRun(node, configId);
    expect((await run.put(run.key('statement'), BODY)).status).toBe(200);
    clock.advance(1000);
    await server.restart();
    const manifest = (bytes: number) =>
      run.sign({
        method: 'PUT',
        key: run.key('manifest'),
        headers: { 'if-none-match': '*' },
        content_length: bytes,
        payload_sha256: sha256('any'),
      });
    expect(await sentence(manifest(MAX_BYTES - BODY.length + 1))).toBe(tooMuch);
    await manifest(MAX_BYTES - BODY.length);
    await end(node, run.id, failedEnd());
  });

  test('nothing is written once it is cancelled, or when another attempt has begun', async () => {
    const run = await startRun(node, configId);
    const upload = await run.open('archive');
    const next = nodeRun(node, await start(node, starting(configId, { run_id: run.id, attempt: 2 })));
    expect(await sentence(part(run, upload, 1, 4))).toBe(
      '403 backups.sign_refused: Not signed: The upload is none that the server opened for the running attempt.',
    );
    expect(await sentence(run.put(run.key('manifest'), BODY))).toBe(
      '403 backups.sign_refused: Not signed: The key is none of the objects of the running attempt.',
    );
    expect((await next.put(next.key('manifest'), BODY)).status).toBe(200);
    await server.as('operator').call(cancelRun, { params: { id: run.id } });
    expect(await sentence(next.put(next.key('statement'), BODY))).toBe(
      '403 backups.sign_refused: Not signed: The run was cancelled: nothing is written any more.',
    );
    await end(node, run.id, failedEnd(2));
  });

  test("another node's run is read when it is granted, and no longer than that", async () => {
    const of = nodeRun(node, { ...stage.foreign.grant });
    const key = stage.foreign.key('archive');
    expect(await sentence(of.sign({ key }))).toMatch(/^404 backups.unknown_run/);
    await server
      .as('operator')
      .call(grantRestore, { params: { id: stage.foreign.id }, body: { node: 'web-1', ttl_sec: 60 } });
    const [signed] = await of.sign({ key });
    expect((await sendRaw('GET', signed?.url ?? '', signed?.headers ?? {})).text).toBe('an archive');
    expect(await sentence(of.put(stage.foreign.key('statement'), BODY))).toBe(
      "403 backups.sign_refused: Not signed: The run is another node's: it can be read, not written.",
    );
    const source = await node.call(restoreSource, { params: { id: stage.foreign.id } });
    expect(source).toMatchObject({ prefix: stage.foreign.grant.prefix, sealed_credentials: null });
    clock.advance(61_000);
    expect(await sentence(of.sign({ key }))).toMatch(/^404 backups.unknown_run/);
  });

  test('nothing is written when the time of the run is over', async () => {
    const run = await startRun(node, configId);
    clock.advance(86_400_000 + 15 * 60_000);
    const { token } = await renewToken(server, node, clock.now());
    const late = { ...node, ...server.withToken(token) };
    expect(await sentence(nodeRun(late, run.grant).put(run.key('manifest'), BODY))).toBe(
      '403 backups.sign_refused: Not signed: The time of the run is over: nothing is written any more.',
    );
  });
});
