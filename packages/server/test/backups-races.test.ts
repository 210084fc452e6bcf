import { statementBytes } from '@aegis/archive/backup/statement';
import { showRun } from '@aegis/protocol/backups/endpoints';
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type HostileS3, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { answeredAfter, createS3Config, type NodeRun, sha256, startRun } from './backups-s3-support.ts';
import { end, goodEnd } from './backups-support.ts';
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
  server = await startTestServer({ clock, config: { backups_sweep_uploads_after_sec: 5 } });
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
