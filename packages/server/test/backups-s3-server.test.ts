import { Readable } from 'node:stream';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { probeConfig } from '@aegis/protocol/backups/endpoints';
import { ListMultipartUploadsCommand, ListObjectVersionsCommand } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type HostileS3, INTERNAL_ERROR, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { s3Store } from '../src/backups/s3/store.ts';
import { uploadStream } from '../src/backups/s3/upload-stream.ts';
import { systemClock } from '../src/platform/clock.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config, startRun, uploadWhole } from './backups-s3-support.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** What the server itself does at a real S3 server: streams of its own, and the probe of a destination. */

const ARCHIVE = Buffer.from('an archive');
const HEX_SECRET = /[A-Za-z0-9/+]{40}/;
const sealing = generateKeyPair('x25519');

let gateway: Radosgw;
let server: TestServer;
let node: EnrolledNode;
let bucket: string;

beforeAll(async () => {
  gateway = await startRadosgw();
});
afterAll(() => gateway?.stop());

const stage = async (storage: 'sqlite' | 'postgres' = 'sqlite'): Promise<void> => {
  server = await startTestServer({ storage });
  node = await server.enrol('web-1', { sealing_key: sealing.publicRaw.toString('base64') });
  bucket = await gateway.bucket();
};
const configured = async (destination: Record<string, unknown> = {}, more: Record<string, unknown> = {}) =>
  (await createS3Config(server, gateway, { bucket, destination, ...more })).config_id;
describe("the server's own streams", () => {
  const storeTo = (endpoint: string, more: Record<string, unknown> = {}) =>
    s3Store(
      {
        kind: 's3',
        bucket,
        region: 'us-east-1',
        prefix: '',
        endpoint,
        path_style: true,
        object_lock_mode: 'governance',
        checksum: 'when_required',
        access: 'signed',
        ...more,
      },
      { access_key_id: gateway.accessKey, secret_access_key: gateway.secretKey },
      { clock: systemClock, bounds: { attempts: 2 } },
    );
  const piece = Buffer.alloc(1024 * 1024, 'x');
  const pieces = async function* (count: number, failsAt = -1) {
    for (let at = 0; at < count; at++) {
      if (at === failsAt) throw new Error('the source is gone');
      yield piece;
    }
  };
  const left = async () => {
    const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
    const { Versions = [] } = await gateway.s3().send(new ListObjectVersionsCommand({ Bucket: bucket }));
    return [...Uploads.map(({ Key }) => `upload ${Key}`), ...Versions.map(({ Key }) => Key)];
  };
  beforeEach(async () => {
    bucket = await gateway.bucket();
  });

  test('arrive whole, in parts or as one', async () => {
    const store = storeTo(gateway.endpoint);
    for (const count of [1, 40]) {
      const told: number[] = [];
      expect(
        await uploadStream(store, `of-${count}`, Readable.from(pieces(count)), {
          onBytes: (bytes) => told.push(bytes),
        }),
      ).toEqual({ bytes: count * piece.length });
      expect(told.at(-1)).toBe(count * piece.length);
      expect((await store.head(`of-${count}`))?.bytes).toBe(count * piece.length);
    }
    await store.close();
  });

  test('leave nothing when the source, S3 or the caller ends them', async () => {
    await using proxy = await startHostileS3(gateway.endpoint);
    const store = storeTo(proxy.url);
    await expect(uploadStream(store, 'a', Readable.from(pieces(40, 20)))).rejects.toThrow('the source is gone');
    proxy.misbehave(INTERNAL_ERROR, ({ method, query }) => method === 'PUT' && query.get('partNumber') === '2');
    await expect(uploadStream(store, 'b', Readable.from(pieces(40)))).rejects.toThrow(
      /^Writing an object failed for the bucket .* \(InternalError, 500\)\. It is overloaded/,
    );
    proxy.mend();
    const asked = new AbortController();
    await expect(
      uploadStream(store, 'c', Readable.from(pieces(40)), {
        onBytes: () => asked.abort(new Error('nobody wants it')),
        signal: asked.signal,
      }),
    ).rejects.toThrow('nobody wants it');
    await waitFor('nothing to be left', async () => (await left()).length === 0);
    await store.close();
  });
});

describe('the probe', () => {
  let proxy: HostileS3;
  beforeEach(async () => {
    await stage();
    proxy = await startHostileS3(gateway.endpoint);
  });
  afterEach(async () => {
    await server?.close();
    await proxy?.[Symbol.asyncDispose]();
  });
  const probed = async (destination: Record<string, unknown> = {}, more: Record<string, unknown> = {}) => {
    await configured(destination, { endpoint: proxy.url, ...more });
    const config = await server.as('operator').call(probeConfig, { params: { id: 'home' } });
    return config.probe ?? { ok: null, conditional_writes: null, notes: [] };
  };
  const HEEDS =
    'It heeds headers of x-amz that were not signed: a node could open its own archives to others (x-amz-acl). Encrypt for recipients, or forbid access lists by a policy of the bucket.';
  const NOT_CREATE_ONLY =
    'It does not refuse to replace an object (If-None-Match on PutObject). Nodes write through multipart uploads only, which the server completes.';

  test('of a bucket as it should be; nothing stays behind', async () => {
    expect(await probed()).toMatchObject({ ok: true, conditional_writes: true, notes: [HEEDS] });
    const { Versions = [] } = await gateway.s3().send(new ListObjectVersionsCommand({ Bucket: bucket }));
    const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
    expect([...Versions, ...Uploads]).toEqual([]);
  });

  test('of one that replaces: its runs go through uploads alone', async () => {
    bucket = await gateway.bucket(undefined, { objectLock: true }); // this server forgets the condition where there are versions
    expect(await probed()).toMatchObject({ ok: true, conditional_writes: false, notes: [NOT_CREATE_ONLY, HEEDS] });
    const { config_id: configId } = await server.as('operator').call(probeConfig, { params: { id: 'home' } });
    const run = await startRun(node, configId);
    expect(run.grant.conditional_writes).toBe(false);
    expect(await sentence(run.put(run.key('manifest'), ARCHIVE))).toBe(
      '403 backups.sign_refused: Not signed: The destination knows no create-only writes. Ask the server to open an upload of the object.',
    );
    await uploadWhole(run, 'manifest', [ARCHIVE]);
  });

  test.each([
    [
      'a bucket that is not there',
      { bucket: 'not-there' },
      /\(NoSuchBucket, 404\)\. The bucket is not there\. Create it, or correct destination\.bucket\.$/,
    ],
    [
      'an address where nobody listens',
      { endpoint: 'http://127.0.0.1:1' },
      /\(ECONNREFUSED\)\. Nobody listens there\. Is it running, and destination\.endpoint right\?$/,
    ],
    [
      'a name that nobody knows',
      { endpoint: 'http://s3.invalid' },
      /\((?:ENOTFOUND|EAI_AGAIN)\)\. (?:Its name is not known|The name servers do not answer)/,
    ],
    ['a lock where there is none', { object_lock_days: 1 }, /object_lock_days/],
    [
      'a role that is not there',
      { access: 'sts', sts: { role_arn: 'arn:aws:iam:::role/nobody' } },
      /^Assuming the role arn:aws:iam:::role\/nobody failed/,
    ],
  ])('of %s', async (_, destination, note) => {
    const { ok, notes } = await probed(destination);
    expect({ ok, notes: notes.filter((one) => note.test(one)) }).toMatchObject({
      ok: false,
      notes: [expect.stringMatching(note)],
    });
    expect(JSON.stringify(notes)).not.toMatch(HEX_SECRET);
  });

  test('of credentials that are not right', async () => {
    const { ok, notes } = await probed(
      {},
      { change: { credentials: { access_key_id: gateway.accessKey, secret_access_key: 'wrong-secret' } } },
    );
    expect({ ok, notes }).toEqual({
      ok: false,
      notes: [
        expect.stringMatching(
          /^Writing an object failed for the bucket .* The credentials may not do that there|refuses the signature/,
        ),
      ],
    });
    expect(JSON.stringify(notes)).not.toContain('wrong-secret');
  });

  test('of a server that lies about what it stored', async () => {
    proxy.misbehave('alter-answer', ({ method, query }) => method === 'GET' && query.get('x-id') === 'GetObject');
    const { ok, notes } = await probed();
    expect({ ok, notes }).toEqual({
      ok: false,
      notes: ['What was written there was not read back as it was. Look after the S3 server.', HEEDS],
    });
    await waitFor('nothing to be left', async () => {
      const { Versions = [] } = await gateway.s3().send(new ListObjectVersionsCommand({ Bucket: bucket }));
      return Versions.length === 0;
    });
  });
});
