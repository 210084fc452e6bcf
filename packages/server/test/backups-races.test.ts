import { statementBytes } from '@aegis/archive/backup/statement';
import { cancelRun, showRun } from '@aegis/protocol/backups/endpoints';
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type HostileS3, type SeenRequest, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { RADOSGW_REGION, type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { answeredAfter, createS3Config, type NodeRun, nodeRun, sha256, startRun } from './backups-s3-support.ts';
import { end, failedEnd, goodEnd, put, start, starting } from './backups-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Two things at the same moment, the worst one for each: whatever is decided on what was read before holds no more. */

const ARCHIVE = Buffer.from('an archive');
const MANIFEST = Buffer.from('a manifest');

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
  server = await startTestServer({
    clock,
    config: { backups_sweep_uploads_after_sec: 5, backups_s3_attempts: 1, backups_s3_timeout_sec: 4 },
  });
  node = await server.enrol('web-1');
  bucket = await gateway.bucket();
});
afterEach(async () => {
  await server?.close();
  await proxy?.[Symbol.asyncDispose]();
});

const configured = async (more: Record<string, unknown> = {}) =>
  (await createS3Config(server, gateway, { bucket, endpoint: proxy.url, more })).config_id;
const read = async (Key: string): Promise<string> => {
  const { Body } = await gateway.s3().send(new GetObjectCommand({ Bucket: bucket, Key }));
  return (await Body?.transformToString()) ?? '';
};
const row = (id: string) =>
  server.running.storage.read.selectFrom('backups_runs').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
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

describe('the sweep of uploads', () => {
  test('and a run that ends while it looks: the archive stays', async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    const upload = await run.open();
    const { etag } = await run.part(upload, 1, ARCHIVE);
    let told = false;
    const finish = async () => {
      if (told) return;
      told = true;
      await run.close(upload, [{ number: 1, etag, bytes: ARCHIVE.length }], ARCHIVE);
      await run.put(run.key('manifest'), MANIFEST);
      const good = goodEndOf(configId, run);
      if (good.statement) await run.put(run.key('statement'), statementBytes(good.statement));
      await end(node, run.id, good);
    };
    proxy.misbehave(answeredAfter(gateway, finish), ({ method, query }) => method === 'GET' && query.has('uploads'));
    clock.advance(60_000);
    const aborted = await server.running.backups.s3.sweep();
    expect((await server.as('viewer').call(showRun, { params: { id: run.id } })).state).toBe('completed');
    expect(await read(run.key('archive'))).toBe(ARCHIVE.toString());
    expect(aborted).toBe(0);
  });
});

describe('a signature that S3 is asked for first', () => {
  const asked = async () => {
    const configId = await configured();
    const run = await startRun(node, configId);
    await run.open();
    await server.restart(); // what the attempt has at S3 is not known any more
    return { configId, run };
  };
  const isListing = ({ method, query }: SeenRequest): boolean => method === 'GET' && query.has('uploadId');

  test('and a run that is cancelled meanwhile: it is not given', async () => {
    const { run } = await asked();
    const cancel = () => server.as('operator').call(cancelRun, { params: { id: run.id } });
    proxy.misbehave(answeredAfter(gateway, cancel), isListing, 1);
    expect(await sentence(run.put(run.key('manifest'), MANIFEST))).toBe(
      '403 backups.sign_refused: Not signed: The run was cancelled: nothing is written any more.',
    );
  });

  test('and an attempt that begins meanwhile: it is not given, and what the new one was given counts', async () => {
    const { configId, run } = await asked();
    const big = { method: 'PUT' as const, content_length: 1024 ** 3, payload_sha256: sha256('any') };
    const part = (of: NodeRun, upload: { upload_id: string; key: string }, number: number) =>
      of.sign({ ...big, key: upload.key, query: { uploadId: upload.upload_id, partNumber: String(number) } });
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('backups_runs').set({ max_bytes: big.content_length }).execute();
    });
    let next: NodeRun | undefined;
    let upload = { upload_id: '', key: '' };
    const goOn = async () => {
      if (next) return;
      next = nodeRun(node, await start(node, starting(configId, { run_id: run.id, attempt: 2 })));
      upload = await next.open();
      await server.running.storage.write('test', async (tx) => {
        await tx.updateTable('backups_runs').set({ max_bytes: big.content_length }).execute();
      });
      await part(next, upload, 1);
    };
    proxy.misbehave(answeredAfter(gateway, goOn), isListing, 1);
    expect(await sentence(run.put(run.key('manifest'), MANIFEST))).toBe(
      '403 backups.sign_refused: Not signed: The key is none of the objects of the running attempt.',
    );
    expect(next && (await sentence(part(next, upload, 2)))).toMatch(/^403 backups\.sign_refused: .* grow beyond /);
  });
});

test('a destination that is away when its configuration moves on: what was begun there goes once it is back', async () => {
  const configId = await configured();
  const run = await startRun(node, configId);
  await run.put(run.key('manifest'), MANIFEST);
  await run.open();
  proxy.cut();
  const elsewhere = { kind: 's3', bucket: await gateway.bucket(), region: RADOSGW_REGION, endpoint: gateway.endpoint };
  await put(server, configId, { nodes: ['all'], destination: { ...elsewhere, path_style: true } });
  const next = nodeRun(node, await start(node, starting(configId, { run_id: run.id, attempt: 2, generation: 2 })));
  await server.running.backups.s3.uploads.attemptOver(await row(run.id), 1); // in its turn, so after that of the start
  clock.advance(60_000);
  await server.running.backups.s3.sweep();
  await server.running.backups.sweep.turn();
  proxy.mend();
  await server.running.backups.s3.sweep();
  const s3 = gateway.s3();
  expect((await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads ?? []).toEqual([]);
  await end(node, next.id, failedEnd(2));
  await server.running.storage.write('test', async (tx) => {
    await tx.updateTable('backups_runs').set({ removed_at: clock.now() }).execute();
    const removal = { run_id: run.id, node_uid: node.uid, remover: 'server' as const, decided_at: 0, next_at: 0 };
    const rest = { tries: 0, told_in: null, done_at: null, reason: '', error: null };
    await tx
      .insertInto('backups_removals')
      .values({ ...removal, ...rest })
      .execute();
  });
  await server.running.backups.upkeep.retention.turn();
  expect((await s3.send(new ListObjectsV2Command({ Bucket: bucket }))).Contents ?? []).toEqual([]);
});
