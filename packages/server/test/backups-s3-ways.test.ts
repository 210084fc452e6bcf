import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateKeyPair, rawPrivateKey } from '@aegis/protocol/access/keys';
import { openSealed } from '@aegis/protocol/access/sealed-box';
import { probeConfig, runLinks, showRun, verifyRun } from '@aegis/protocol/backups/endpoints';
import { restoreSource, SealedCredentials } from '@aegis/protocol/backups/node-endpoints';
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { type HostileS3, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { makeCertificate } from '../../../test/fleet/certificate.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { createS3Config, finishRun, type NodeRun, sendRaw, startRun } from './backups-s3-support.ts';
import { end, failedEnd } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** The ways of nodes and operators to a bucket, at a real S3 server. */

const ARCHIVE = Buffer.from('an archive');
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
const finished = async (configId: string): Promise<NodeRun> => {
  const run = await startRun(node, configId);
  await finishRun(node, configId, run, ARCHIVE);
  return run;
};
const opened = (sealed: string | null): SealedCredentials =>
  z.parse(SealedCredentials, JSON.parse(openSealed(sealed ?? '', rawPrivateKey(sealing.privateKey)).toString('utf8')));
const clientWith = ({ access_key_id, secret_access_key, session_token }: SealedCredentials) =>
  gateway.s3({
    credentials: {
      accessKeyId: access_key_id,
      secretAccessKey: secret_access_key,
      ...(session_token === undefined ? {} : { sessionToken: session_token }),
    },
  });

describe.each(STORAGES)('%s', (storage) => {
  beforeEach(() => stage(storage));
  afterEach(() => server?.close());

  test('a run by parts, its end, its links, its verification', async () => {
    const configId = await configured();
    const run = await finished(configId);
    const show = () => server.as('viewer').call(showRun, { params: { id: run.id } });
    expect(await show()).toMatchObject({ state: 'completed', verified: null });

    const { links } = await server.as('operator').call(runLinks, { params: { id: run.id } });
    expect(links.map(({ object, key }) => [object, key])).toEqual(
      (['archive', 'manifest', 'statement'] as const).map((object) => [object, run.key(object)]),
    );
    const [archive] = links;
    expect((await sendRaw('GET', archive?.url ?? '', {})).text).toBe('an archive');
    expect((await sendRaw('GET', archive?.url ?? '', { range: 'bytes=3-4' })).text).toBe('ar');
    // For reading this object, and nothing else.
    expect((await sendRaw('PUT', archive?.url ?? '', {}, Buffer.from('x'))).status).toBe(403);
    expect((await sendRaw('DELETE', archive?.url ?? '', {})).status).toBe(403);
    expect((await sendRaw('GET', (archive?.url ?? '').replace('archive.tar', 'manifest.ndjson'), {})).status).toBe(403);
    expect(JSON.stringify(links)).not.toContain(gateway.secretKey);

    const verify = () => server.as('operator').call(verifyRun, { params: { id: run.id } });
    expect((await verify()).verified).toMatchObject({ ok: true, message: 'The objects are what the node signed.' });
    const faults: [string, string, Buffer | null][] = [
      ['archive', 'The archive is not what its node signed: its SHA-256 is another one.', Buffer.from('an archivE')],
      ['archive', 'The archive has 3 bytes, not the 10 that its node signed.', Buffer.from('abc')],
      ['archive', 'The archive is not there.', null],
      ['manifest', 'The manifest is not what its node signed: its SHA-256 is another one.', Buffer.from('A manifest')],
    ];
    for (const [object, message, body] of faults) {
      const Key = run.key(object as 'archive');
      const { Body } = await gateway.s3().send(new GetObjectCommand({ Bucket: bucket, Key }));
      const was = (await Body?.transformToByteArray()) ?? Buffer.alloc(0);
      if (body === null) await gateway.s3().send(new DeleteObjectCommand({ Bucket: bucket, Key }));
      else await gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key, Body: body }));
      expect((await verify()).verified).toMatchObject({ ok: false, message });
      await gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key, Body: was }));
    }
    expect((await show()).verified).toMatchObject({ ok: false });
    expect((await verify()).verified).toMatchObject({ ok: true });
  });

  test('uploads left by attempts are found again in either database', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    await run.open('archive');
    await run.open('manifest');
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('backups_runs').set({ state: 'failed' }).where('id', '=', run.id).execute();
    });
    expect(await server.running.backups.s3.sweep()).toBe(2);
    const { Uploads = [] } = await gateway.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
    expect(Uploads).toEqual([]);
    expect(await server.running.backups.s3.sweep()).toBe(0);
  });
});

describe('ways', () => {
  beforeEach(() => stage());
  afterEach(() => server?.close());

  test('presigned: addresses in place of headers, by the same rules', async () => {
    const configId = await configured({ access: 'presigned' });
    const run = await startRun(node, configId);
    expect(run.grant.sealed_credentials).toBeNull();
    const [signed] = await run.sign({ key: run.key('archive') });
    expect(Object.keys(signed?.headers ?? {})).toEqual(['x-amz-content-sha256']);
    expect(new URL(signed?.url ?? '').searchParams.get('X-Amz-Expires')).toBe('900');
    await finishRun(node, configId, run, ARCHIVE);
    expect(await sentence(run.sign({ method: 'DELETE', key: run.key('archive') }))).toMatch(
      /^403 backups.sign_refused/,
    );
  });

  test('static: the credentials, sealed to the node, and to nobody else', async () => {
    const other = await server.enrol('web-2');
    const configId = await configured({ access: 'static' });
    const run = await startRun(node, configId);
    expect(opened(run.grant.sealed_credentials)).toEqual({
      access_key_id: gateway.accessKey,
      secret_access_key: gateway.secretKey,
    });
    expect(run.grant.sealed_credentials).not.toMatch(new RegExp(gateway.secretKey));
    expect(() =>
      openSealed(run.grant.sealed_credentials ?? '', rawPrivateKey(generateKeyPair('x25519').privateKey)),
    ).toThrow();
    expect(await sentence(startRun(other, configId))).toBe(
      "422 backups.unsupported: destination.access = 'static' hands credentials to nodes, and this node has no key to seal them to. Enrol it again, or use 'signed'.",
    );
  });

  test('sts: a session that writes below the run, and does nothing else', async () => {
    const configId = await configured({
      access: 'sts',
      sts: { role_arn: gateway.roleArn, duration_sec: 900 },
    });
    const run = await startRun(node, configId);
    const session = opened(run.grant.sealed_credentials);
    expect(session.session_token).toMatch(/^\S{16,}$/);
    expect(Date.parse(session.expires_at ?? '') - Date.now()).toBeLessThanOrEqual(900_000 + 60_000);
    expect(JSON.stringify(session)).not.toContain(gateway.secretKey);
    const s3 = clientWith(session);
    await gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key: 'elsewhere', Body: ARCHIVE }));
    const upload = await run.open('archive');
    const part = await s3.send(
      new UploadPartCommand({
        Bucket: bucket,
        Key: upload.key,
        UploadId: upload.upload_id,
        PartNumber: 1,
        Body: ARCHIVE,
      }),
    );
    await run.close(upload, [{ number: 1, etag: part.ETag ?? '', bytes: ARCHIVE.length }], ARCHIVE);
    await s3.send(new PutObjectCommand({ Bucket: bucket, Key: run.key('manifest'), Body: ARCHIVE, IfNoneMatch: '*' }));
    const refusals = [
      new GetObjectCommand({ Bucket: bucket, Key: upload.key }),
      new CopyObjectCommand({ Bucket: bucket, Key: `${run.grant.prefix}copy`, CopySource: `/${bucket}/elsewhere` }),
      new DeleteObjectCommand({ Bucket: bucket, Key: upload.key }),
      new PutObjectCommand({ Bucket: bucket, Key: `fleet/a/${node.uid}/other`, Body: ARCHIVE }),
      new PutObjectCommand({ Bucket: bucket, Key: run.key('manifest').replace('/1/', '/10/'), Body: ARCHIVE }),
    ];
    for (const command of refusals)
      await expect(s3.send(command as GetObjectCommand)).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });
    // For a restore: reading, and nothing else.
    const whole = await startRun(node, configId);
    await finishRun(node, configId, whole, ARCHIVE);
    const source = await node.call(restoreSource, { params: { id: whole.id } });
    const reader = clientWith(opened(source.sealed_credentials));
    const { Body } = await reader.send(new GetObjectCommand({ Bucket: bucket, Key: whole.key('archive') }));
    expect(await Body?.transformToString()).toBe('an archive');
    await expect(
      reader.send(new PutObjectCommand({ Bucket: bucket, Key: whole.key('archive'), Body: ARCHIVE })),
    ).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });
  });

  test('object lock: what a good run wrote cannot be removed, and the server knows', async () => {
    bucket = await gateway.bucket(undefined, { objectLock: true });
    const configId = await configured({ object_lock_days: 1 });
    const run = await startRun(node, configId);
    const [signed] = await run.sign({
      method: 'PUT',
      key: run.key('manifest'),
      headers: { 'if-none-match': '*' },
      content_length: ARCHIVE.length,
      payload_sha256: '0'.repeat(64),
    });
    expect(Object.keys(signed?.headers ?? {}).sort()).toEqual([
      'authorization',
      'content-length',
      'if-none-match',
      'x-amz-checksum-sha256',
      'x-amz-content-sha256',
      'x-amz-date',
      'x-amz-object-lock-mode',
      'x-amz-object-lock-retain-until-date',
    ]);
    await finishRun(node, configId, run, ARCHIVE);
    const view = await server.as('viewer').call(showRun, { params: { id: run.id } });
    for (const object of ['archive', 'manifest', 'statement'] as const) {
      const { ObjectLockRetainUntilDate, VersionId } = await gateway
        .s3()
        .send(new HeadObjectCommand({ Bucket: bucket, Key: run.key(object) }));
      expect(
        Math.abs((ObjectLockRetainUntilDate?.getTime() ?? 0) - Date.parse(view.locked_until ?? '')),
        object,
      ).toBeLessThan(120_000);
      await expect(
        gateway.s3().send(new DeleteObjectCommand({ Bucket: bucket, Key: run.key(object), VersionId })),
      ).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });
    }
  });

  test('nothing is handed out of a run that is not good, or of a folder', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    await end(node, run.id, failedEnd());
    const links = (id: string) => sentence(server.as('operator').call(runLinks, { params: { id } }));
    expect(await links(run.id)).toBe(
      `404 backups.unknown_object: The run ${run.id} is failed: there is no whole archive of it. See 'aegis backups runs' for others.`,
    );
    expect(await sentence(server.as('operator').call(verifyRun, { params: { id: run.id } }))).toBe(
      `404 backups.unknown_object: The run ${run.id} has no archive to verify (failed). See 'aegis backups runs'.`,
    );
    expect(await links(randomUUID())).toMatch(/^404 backups.unknown_run/);
  });

  test('no run is good of which an object is not there as it was signed', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    const Key = run.key('archive');
    const replaced = () => gateway.s3().send(new PutObjectCommand({ Bucket: bucket, Key, Body: Buffer.from('other') }));
    expect(await sentence(finishRun(node, configId, run, ARCHIVE, replaced))).toBe(
      '422 backups.upload_mismatch: The archive has 5 bytes at the destination and 10 by the statement. Start another attempt.',
    );
    const second = await startRun(node, configId);
    const removed = () => gateway.s3().send(new DeleteObjectCommand({ Bucket: bucket, Key: second.key('manifest') }));
    expect(await sentence(finishRun(node, configId, second, ARCHIVE, removed))).toBe(
      `422 backups.upload_mismatch: The manifest is not at the destination (${second.key('manifest')}). Start another attempt.`,
    );
  });
});

describe('with TLS', () => {
  let proxy: HostileS3;
  let folder: string;
  let ca: string;
  beforeEach(async () => {
    await stage();
    folder = mkdtempSync(join(tmpdir(), 'aegis-s3-tls-'));
    const tls = makeCertificate(folder);
    ca = tls.cert;
    proxy = await startHostileS3(gateway.endpoint, { tls });
  });
  afterEach(async () => {
    await server?.close();
    await proxy?.[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  test('of an authority of its own: the server trusts what the configuration says, and reads may go unsigned', async () => {
    const configId = await configured({ ca }, { endpoint: proxy.url });
    expect((await server.as('operator').call(probeConfig, { params: { id: 'home' } })).probe).toMatchObject({
      ok: true,
    });
    const run = await startRun(node, configId);
    expect((await run.open()).key).toBe(run.key('archive'));
    const [signed] = await run.sign({ key: run.key('manifest'), payload_sha256: 'UNSIGNED-PAYLOAD' });
    expect(signed?.url.startsWith(`${proxy.url}/${bucket}/`)).toBe(true);
    expect(
      await sentence(
        run.sign({
          method: 'PUT',
          key: run.key('manifest'),
          headers: { 'if-none-match': '*' },
          content_length: 4,
          payload_sha256: 'UNSIGNED-PAYLOAD',
        }),
      ),
    ).toBe('403 backups.sign_refused: Not signed: Nothing is written without the SHA-256 of its body.');
  });

  test('of one that nobody named: nothing is sent there', async () => {
    const configId = await configured({}, { endpoint: proxy.url });
    const run = await startRun(node, configId);
    expect(await sentence(run.open())).toMatch(
      /\(DEPTH_ZERO_SELF_SIGNED_CERT\)\. Its certificate is not trusted\. Put the PEM of its authority into destination\.ca/,
    );
    expect(proxy.seen).toEqual([]);
  });
});
