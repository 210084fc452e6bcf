import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { cancelRun } from '@aegis/protocol/backups/endpoints';
import { postProgress } from '@aegis/protocol/backups/node-endpoints';
import {
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  type HostileS3,
  INTERNAL_ERROR,
  type SeenRequest,
  SLOW_DOWN,
  startHostileS3,
} from '../../../test/faults/hostile-s3.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config, finishRun, type NodeRun, nodeRun, startRun } from './backups-s3-support.ts';
import { end, failedEnd, progress, start, starting } from './backups-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Multipart uploads at a real S3 server: opened, completed and aborted by the server alone, once, whatever happens in between. */

const MIB = 1024 * 1024;
const FIRST = Buffer.alloc(5 * MIB, 'a');
const LAST = Buffer.from('the rest');
const WHOLE = Buffer.concat([FIRST, LAST]);
const HOUR = 3_600_000;

let gateway: Radosgw;
let proxy: HostileS3;
let server: TestServer;
let node: EnrolledNode;
let bucket: string;
let configId: string;
let clock: ReturnType<typeof handClock>;

beforeAll(async () => {
  gateway = await startRadosgw();
});
afterAll(() => gateway?.stop());
const begin = async (timeoutSec = 4) => {
  proxy = await startHostileS3(gateway.endpoint);
  clock = handClock();
  server = await startTestServer({ clock, config: { backups_s3_timeout_sec: timeoutSec, backups_s3_attempts: 2 } });
  node = await server.enrol('web-1');
  await fresh();
};
let made = 0;
/** Another bucket at the same server. */
const fresh = async () => {
  bucket = await gateway.bucket();
  configId = (
    await createS3Config(server, gateway, {
      bucket,
      endpoint: proxy.url,
      more: { name: `home-${made++}`, limits: { archive_bytes: 20 * MIB } },
    })
  ).config_id;
};
const finish = async () => {
  await server?.close();
  await proxy?.[Symbol.asyncDispose]();
};

const openAt = async (): Promise<string[]> => {
  const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
  return Uploads.map(({ UploadId = '' }) => UploadId);
};
const sent = async (run: NodeRun, bodies: readonly Buffer[] = [FIRST, LAST]) => {
  const upload = await run.open();
  const parts = [];
  for (const [at, body] of bodies.entries()) {
    const { etag } = await run.part(upload, at + 1, body);
    parts.push({ number: at + 1, etag, bytes: body.length });
  }
  return { upload, parts };
};
const isComplete = ({ method, query }: SeenRequest): boolean => method === 'POST' && query.has('uploadId');
const isListing = ({ method, query }: SeenRequest): boolean => method === 'GET' && query.has('uploadId');

const quiet = () => {
  proxy.mend();
  proxy.seen.splice(0);
};

describe('opened and completed', () => {
  beforeAll(() => begin());
  beforeEach(fresh);
  afterEach(quiet);
  afterAll(finish);

  test('once, however often and from however many sides it is asked for', async () => {
    const run = await startRun(node, configId);
    const opened = await Promise.all([run.open(), run.open(), run.open()]);
    expect(new Set(opened.map(({ upload_id }) => upload_id)).size).toBe(1);
    expect(opened[0]?.key).toBe(run.key('archive'));
    expect(await openAt()).toEqual([opened[0]?.upload_id]);
    const { upload, parts } = await sent(run);
    const closed = await Promise.all([run.close(upload, parts, WHOLE), run.close(upload, parts, WHOLE)]);
    expect(closed).toEqual([
      { key: run.key('archive'), bytes: WHOLE.length },
      { key: run.key('archive'), bytes: WHOLE.length },
    ]);
    expect(await run.open()).toEqual(upload);
    expect(proxy.seen.filter(isComplete)).toHaveLength(1);
    expect(await openAt()).toEqual([]);
    expect(await sentence(run.close(upload, parts, { bytes: WHOLE.length, sha256: 'b'.repeat(64) }))).toBe(
      `422 backups.upload_mismatch: The object was completed with ${WHOLE.length} bytes and another hash. Start another attempt.`,
    );
  });

  test('and no credential passes, to S3 or to the node', async () => {
    const run = await startRun(node, configId);
    for (const text of [gateway.secretKey, 'x-amz-content-sha256', LAST.toString()]) proxy.watch(text);
    await finishRun(node, configId, run, LAST);
    expect([...proxy.found].sort()).toEqual([LAST.toString(), 'x-amz-content-sha256']);
    const signed = await run.sign({ key: run.key('archive') });
    expect(JSON.stringify([run.grant, signed])).not.toContain(gateway.secretKey);
  });

  test('only of the parts that S3 has, as they were sent', async () => {
    const run = await startRun(node, configId);
    const { upload, parts } = await sent(run, [FIRST, LAST, LAST]);
    const [one, two, three] = parts as [(typeof parts)[0], (typeof parts)[0], (typeof parts)[0]];
    const bytes = { bytes: FIRST.length + 2 * LAST.length, sha256: 'a'.repeat(64) };
    const refusals: [string, typeof parts][] = [
      ['The parts are not in the order of their numbers, each once. Sort them.', [two, one]],
      ['The parts are not in the order of their numbers, each once. Sort them.', [one, one]],
      ['Part 9 has not arrived. Send it again.', [one, { ...two, number: 9 }]],
      [`Part 2 has ${LAST.length} bytes at S3 and 1 here. Send it again.`, [one, { ...two, bytes: 1 }]],
      ['Part 2 has another ETag at S3 than it had when it was sent. Send it again.', [one, { ...two, etag: one.etag }]],
      ['Part 2 is smaller than 5 MiB, which only the last one may be. Start another attempt.', [one, two, three]],
      ['S3 has a part 3 that is not named. Name every part, or start another attempt.', [one, two]],
    ];
    for (const [why, wrong] of refusals)
      expect(await sentence(run.close(upload, wrong, bytes))).toBe(`422 backups.upload_mismatch: ${why}`);
    expect(await sentence(run.close({ upload_id: 'made-up' }, [one, two], WHOLE))).toBe(
      '422 backups.upload_mismatch: The upload is none that the server opened for this object of the attempt.',
    );
    const second = await startRun(node, configId);
    const whole = await sent(second);
    expect(await sentence(second.close(whole.upload, whole.parts, { ...bytes, bytes: 1 }))).toBe(
      `422 backups.upload_mismatch: The parts have ${WHOLE.length} bytes together, the object is said to have 1.`,
    );
    expect(proxy.seen.filter(isComplete)).toHaveLength(0);
  });

  test('by nobody but the node whose run it is, of the attempt under way', async () => {
    const other = await server.enrol('web-2');
    const run = await startRun(node, configId);
    expect(await sentence(nodeRun(other, run.grant).open())).toMatch(/^404 backups.unknown_run/);
    await start(node, starting(configId, { run_id: run.id, attempt: 2 }));
    expect(await sentence(run.open())).toMatch(/^409 backups.run_conflict/);
    await end(node, run.id, failedEnd(2));
    expect(await sentence(nodeRun(node, { ...run.grant, attempt: 2 }).open())).toMatch(/^409 backups.run_ended/);
    expect(proxy.seen).toEqual([]);
  });

  test('a completion of which the answer was lost is found to have happened', async () => {
    const run = await startRun(node, configId);
    const { upload, parts } = await sent(run);
    proxy.misbehave('lose-answer', isComplete);
    const closing = await sentence(run.close(upload, parts, WHOLE));
    proxy.mend();
    if (closing !== '')
      expect(closing).toMatch(/^503 backups.destination_failed: Completing a multipart upload failed/);
    expect(await run.close(upload, parts, WHOLE)).toEqual({ key: run.key('archive'), bytes: WHOLE.length });
  });

  test('a server that died after S3 had completed it says so when it is asked again', async () => {
    const run = await startRun(node, configId);
    const { upload, parts } = await sent(run);
    const Parts = parts.map(({ number, etag }) => ({ PartNumber: number, ETag: etag }));
    const at = { Bucket: bucket, Key: upload.key };
    await gateway
      .s3()
      .send(new CompleteMultipartUploadCommand({ ...at, UploadId: upload.upload_id, MultipartUpload: { Parts } }));
    await server.restart();
    expect(await run.close(upload, parts, WHOLE)).toEqual({ key: upload.key, bytes: WHOLE.length });
    expect(proxy.seen.filter(isComplete)).toEqual([]);
    // Another object under its key is not taken for it, of the same size neither.
    const second = await startRun(node, configId);
    const more = await sent(second);
    await gateway
      .s3()
      .send(new PutObjectCommand({ Bucket: bucket, Key: more.upload.key, Body: Buffer.alloc(WHOLE.length) }));
    expect(await sentence(second.close(more.upload, more.parts, WHOLE))).toBe(
      '422 backups.upload_mismatch: There is another object under this key already. Start another attempt.',
    );
  });

  test('not beyond what the run may write', async () => {
    const id = (
      await createS3Config(server, gateway, {
        bucket,
        endpoint: proxy.url,
        more: { name: 'small', limits: { archive_bytes: 1 } },
      })
    ).config_id;
    const run = await startRun(node, id);
    const { upload, parts } = await sent(run, [FIRST]);
    // What was agreed is changed behind its back: parts that were signed for add up to too much.
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('backups_runs').set({ max_bytes: MIB }).where('id', '=', run.id).execute();
    });
    expect(await sentence(run.close(upload, parts, FIRST))).toBe(
      `413 backups.limit: The object has ${FIRST.length} bytes; the run may write ${MIB}.`,
    );
    expect(await openAt()).toEqual([]);
  });
});

describe('aborted', () => {
  beforeEach(() => begin());
  afterEach(finish);

  const gone = () => waitFor('the upload to be gone', async () => (await openAt()).length === 0);

  test.each([
    ['a run that failed', (run: NodeRun) => end(node, run.id, failedEnd())],
    ['a further attempt', (run: NodeRun) => start(node, starting(configId, { run_id: run.id, attempt: 2 }))],
    [
      'a cancel',
      async (run: NodeRun) => {
        await server.as('operator').call(cancelRun, { params: { id: run.id } });
        expect((await node.call(postProgress, { params: { id: run.id }, body: progress() })).cancelled).toBe(true);
        await end(node, run.id, { ...failedEnd(), state: 'cancelled' });
      },
    ],
  ])('after %s', async (_, happens) => {
    const run = await startRun(node, configId);
    await sent(run);
    expect(await openAt()).toHaveLength(1);
    await happens(run);
    await gone();
  });

  test('by the sweep, when S3 did not take it at once', async () => {
    const run = await startRun(node, configId);
    await sent(run);
    proxy.misbehave(
      INTERNAL_ERROR,
      ({ method, query }) => method === 'DELETE' || (method === 'GET' && query.has('uploadId')),
    );
    await end(node, run.id, failedEnd());
    await waitFor('an abort to be tried', () => proxy.seen.some(({ fault }) => fault === 'InternalError'));
    expect(await openAt()).toHaveLength(1);
    proxy.mend();
    expect(await server.running.backups.s3.sweep()).toBe(1);
    expect(await openAt()).toEqual([]);
  });

  test('by the sweep, what has no row; and nothing of others', async () => {
    const running = await startRun(node, configId);
    const { upload } = await running.open().then((one) => ({ upload: one }));
    const [lost, former] = [randomUUID(), await startRun(node, configId)];
    await finishRun(node, configId, former, LAST);
    const create = async (Key: string) =>
      (await gateway.s3().send(new CreateMultipartUploadCommand({ Bucket: bucket, Key }))).UploadId ?? '';
    const ours = [
      await create(`fleet/a/${node.uid}/${configId}/${lost}/1/archive.tar.zst`),
      await create(`fleet/a/${node.uid}/${configId}/${former.id}/1/archive.tar.zst`),
      // The server died before its row was there.
      await create(`fleet/a/${node.uid}/${configId}/${running.id}/1/archive.tar.zst`),
    ];
    const others = [
      await create(`fleet/a/${node.uid}/${randomUUID()}/${lost}/1/archive.tar.zst`),
      await create('fleet/a/somebody/else'),
      await create('fleet/ab/x'),
      await create('other'),
    ];
    const { sweep } = server.running.backups.s3;
    expect(await sweep()).toBe(0); // too young
    clock.advance(2 * HOUR);
    expect(await sweep()).toBe(ours.length);
    expect((await openAt()).sort()).toEqual([...others, upload.upload_id].sort());
    expect(await sweep()).toBe(0);
  });
});

describe('S3 that misbehaves', () => {
  // One server for all: what it makes of one answer leaves nothing behind for the next.
  beforeAll(() => begin(2));
  afterEach(quiet);
  afterAll(finish);

  test.each([
    ['answers 500', INTERNAL_ERROR],
    ['is overloaded', SLOW_DOWN],
    ['breaks connections', 'reset' as const],
    ['breaks off its answer', 'truncate-answer' as const],
  ])('%s once: nobody notices', async (_, how) => {
    const run = await startRun(node, configId);
    proxy.misbehave(how, ({ method }) => method === 'POST', 1);
    const { upload, parts } = await sent(run);
    proxy.misbehave(how, isListing, 1);
    proxy.misbehave(how, isComplete, 1);
    expect(await run.close(upload, parts, WHOLE)).toEqual({ key: upload.key, bytes: WHOLE.length });
    expect(proxy.seen.filter(({ fault }) => fault !== null)).toHaveLength(3);
  });

  test.each([
    [
      'answers 500',
      INTERNAL_ERROR,
      '503 backups.destination_failed',
      '(InternalError, 500). It is overloaded or has a fault of its own. It is tried again.',
    ],
    [
      'is overloaded',
      SLOW_DOWN,
      '503 backups.destination_failed',
      '(SlowDown, 503). It is overloaded or has a fault of its own. It is tried again.',
    ],
    [
      'breaks connections',
      'reset' as const,
      '503 backups.destination_failed',
      '(ECONNRESET). It broke the connection off. It is tried again.',
    ],
    [
      'says nothing',
      'hang' as const,
      '503 backups.destination_failed',
      '(TimeoutError). It did not answer in time. It is tried again.',
    ],
    [
      'is full',
      { answer: 403, code: 'QuotaExceeded' },
      '503 backups.destination_full',
      '(QuotaExceeded, 403). There is no room for more. Make room, or raise the quota.',
    ],
    [
      'knows the key no more',
      { answer: 403, code: 'InvalidAccessKeyId' },
      '503 backups.destination_failed',
      '(InvalidAccessKeyId, 403). It does not know the access key. Correct the credentials of the configuration.',
    ],
    [
      'has no such bucket',
      { answer: 404, code: 'NoSuchBucket' },
      '503 backups.destination_failed',
      '(NoSuchBucket, 404). The bucket is not there. Create it, or correct destination.bucket.',
    ],
    [
      'answers with a page',
      { answer: 200, code: '', body: '<html>hello</html>', headers: { 'content-type': 'text/html' } },
      '503 backups.destination_failed',
      'Is destination.endpoint that of an S3 server?',
    ],
  ])('%s: it is said, and nothing is left', async (_, how, code, why) => {
    const run = await startRun(node, configId);
    proxy.misbehave(how);
    const said = await sentence(run.open());
    expect(
      said.startsWith(`${code}: Opening a multipart upload failed for the bucket '${bucket}' at ${proxy.url} `),
      said,
    ).toBe(true);
    expect(said.endsWith(why), said).toBe(true);
    proxy.mend();
    expect((await run.open()).key).toBe(run.key('archive'));
  });

  test('redirects: the credentials stay where they were', async () => {
    const heard: string[] = [];
    const elsewhere = createServer((from, to) => {
      heard.push(`${from.method} ${from.url} ${from.headers.authorization}`);
      to.writeHead(200).end();
    });
    await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
    const location = `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}/`;
    try {
      const run = await startRun(node, configId);
      for (const answer of [301, 302, 307, 308]) {
        proxy.misbehave({
          answer,
          code: answer === 301 ? 'PermanentRedirect' : 'TemporaryRedirect',
          headers: { location, 'x-amz-bucket-region': 'eu-west-1' },
        });
        expect(await sentence(run.open())).toMatch(/The bucket lies in another region\. Correct destination\.region/);
        proxy.mend();
      }
      expect(heard).toEqual([]);
    } finally {
      await new Promise((resolve) => elsewhere.close(resolve));
    }
  });

  test('an answer without end is not read to its end', async () => {
    const run = await startRun(node, configId);
    let written = 0;
    proxy.misbehave((_, to) => {
      to.writeHead(200, { 'content-type': 'application/xml' });
      const chunk = Buffer.alloc(MIB, ' ');
      const more = (): void => {
        while (!to.destroyed && to.write(chunk)) written += chunk.length;
        if (!to.destroyed) to.once('drain', more);
      };
      more();
    });
    expect(await sentence(run.open())).toMatch(/\(AnswerTooLong\)\. Its answer was longer than any answer of S3\./);
    expect(written).toBeLessThan(256 * MIB);
  });

  test.each([
    [
      'entities in entities',
      `<!DOCTYPE r [<!ENTITY a0 "x">${Array.from({ length: 20 }, (_, at) => `<!ENTITY a${at + 1} "${`&a${at};`.repeat(10)}">`).join('')}]><R><UploadId>&a20;</UploadId></R>`,
    ],
    ['a file of the server', '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><R><UploadId>&x;</UploadId></R>'],
    ['half a million levels', `${'<a>'.repeat(500_000)}${'</a>'.repeat(500_000)}`],
    ['an upload id without end', `<R><UploadId>${'x'.repeat(1_000_000)}</UploadId></R>`],
    ['a prototype', '<R><__proto__><UploadId>x</UploadId></__proto__></R>'],
  ])('an answer with %s is none', async (_, body) => {
    const run = await startRun(node, configId);
    proxy.misbehave({ answer: 200, code: '', body }, ({ method }) => method === 'POST');
    expect(await sentence(run.open())).toMatch(
      /^503 backups.destination_failed: .*, 200\)\. Its answer is none of S3\. Is destination\.endpoint that of an S3 server\?$/,
    );
    expect(Object.getPrototypeOf({})).not.toHaveProperty('UploadId');
  });

  test('an error that quotes what was signed is not repeated', async () => {
    const run = await startRun(node, configId);
    const body = `<Error><Code>SignatureDoesNotMatch</Code><Message>${gateway.secretKey}</Message><StringToSign>${gateway.secretKey}</StringToSign></Error>`;
    proxy.misbehave({ answer: 403, code: '', body });
    const said = await sentence(run.open());
    expect(said).toMatch(
      /\(SignatureDoesNotMatch, 403\)\. It refuses the signature: the secret access key, or destination.region, is not right\.$/,
    );
    expect(said).not.toContain(gateway.secretKey);
  });
});
