import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as api from '@aegis/protocol/backups/agent-endpoints';
import { listRuns, nodeLog, showRun } from '@aegis/protocol/backups/endpoints';
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { sentence } from './artifacts-support.ts';
import { register, statusOf, withKey } from './backups-agent-support.ts';
import { createS3Config } from './backups-s3-support.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';

/** Seed 004's own minimal agent (test/fleet/seed-agent.ts), against the real server and a real S3 server, each with a server of its own. */

describe('the seed’s own minimal agent, at S3', () => {
  let gateway: Radosgw;
  let folder: string;
  beforeAll(async () => {
    gateway = await startRadosgw();
    folder = mkdtempSync(join(tmpdir(), 'aegis-seed-agent-'));
    mkdirSync(join(folder, 'backup', 'sub'), { recursive: true });
    writeFileSync(join(folder, 'backup', 'a.txt'), 'a file');
    writeFileSync(join(folder, 'backup', 'sub', 'b.bin'), Buffer.alloc(100_000, 'b'));
  });
  afterAll(async () => {
    await gateway?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const runAgent = async (server: TestServer, agent: { id: string; apiKey: string }) => {
    const own = mkdtempSync(join(folder, 'agent-'));
    const file = join(own, 'config.json');
    const config = { serverUrl: server.url, apiKey: agent.apiKey, agentId: agent.id, pollInterval: 30_000 };
    writeFileSync(file, JSON.stringify({ ...config, tempDir: join(own, 'temp') }));
    await promisify(execFile)(process.execPath, [
      fileURLToPath(import.meta.resolve('../../../test/fleet/seed-agent.ts')),
      file,
    ]);
  };
  const WAYS = [
    ['static', {}],
    ['sts', { sts: {} }],
    ['presigned', {}],
  ] as const;

  test.concurrent.each(WAYS)('%s: its calls in order, and the archive is there', async (access, more) => {
    await using server = await startTestServer();
    const bucket = await gateway.bucket();
    const agent = await register(server);
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      prefix: 'backups',
      destination: {
        access,
        ...('sts' in more ? { sts: { role_arn: gateway.roleArn, endpoint: gateway.endpoint } } : {}),
      },
      more: { name: 'daily', nodes: ['Davids-MacBook'], sources: [join(folder, 'backup')], retention: { days: 30 } },
    });
    expect(await withKey(server, agent.apiKey).call(api.agentConfigs)).toEqual({
      success: true,
      configs: [
        {
          id,
          name: 'daily',
          sources: [{ path: join(folder, 'backup') }],
          destination: {
            bucket,
            region: 'us-east-1',
            prefix: 'backups',
            endpoint: gateway.endpoint,
            forcePathStyle: true,
          },
          options: { type: 'full', compression: true, encryption: false, retentionDays: 30 },
        },
      ],
    });
    await runAgent(server, agent);
    const { items } = await server.as('viewer').call(listRuns);
    expect(items).toMatchObject([
      {
        config: 'daily',
        node: 'Davids-MacBook',
        trigger: 'agent',
        state: 'completed',
        totals: { files: 2, directories: 0, others: 0, bytes: 100_006, errors: 0 },
        errors: [],
        reason: null,
      },
    ]);
    const key = `backups/${agent.id}/${id}/${items[0]?.run_id}/1/archive.tar.gz`;
    const s3 = gateway.s3();
    const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }));
    expect(Contents.map(({ Key, Size }) => [Key, Size])).toEqual([[key, items[0]?.archive_bytes]]);
    const { Body } = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
    const bytes = Buffer.from((await Body?.transformToByteArray()) ?? []);
    s3.destroy();
    const target = mkdtempSync(join(folder, 'restored-'));
    execFileSync('tar', ['-xz', '-C', target], { input: bytes });
    expect(readFileSync(join(target, folder, 'backup', 'a.txt'), 'utf8')).toBe('a file');
    expect(readFileSync(join(target, folder, 'backup', 'sub', 'b.bin'))).toEqual(Buffer.alloc(100_000, 'b'));
    expect(await statusOf(server, agent.id)).toBe('online');
    expect((await server.as('viewer').call(nodeLog, { params: { id: agent.id } })).items).toMatchObject([
      { level: 'info', message: `Scanning directory ${join(folder, 'backup')}` },
    ]);
  });

  test.concurrent('a source that is not there, and an archive that never arrives: failed, with the reason', async () => {
    await using server = await startTestServer();
    const bucket = await gateway.bucket();
    const agent = await register(server);
    const { config_id: id } = await createS3Config(server, gateway, {
      bucket,
      destination: { access: 'static' },
      more: { nodes: ['Davids-MacBook'], sources: ['/no/such/folder'] },
    });
    await runAgent(server, agent);
    const message = 'Source path does not exist: /no/such/folder';
    expect((await server.as('viewer').call(listRuns)).items).toMatchObject([
      { state: 'failed', reason: { code: 'backups.agent_failed', message } },
    ]);
    expect((await server.as('viewer').call(nodeLog, { params: { id: agent.id } })).items).toMatchObject([
      { level: 'error', message: `Backup failed: ${message}`, metadata: { configId: id } },
    ]);
    const client = withKey(server, agent.apiKey);
    const { logId } = await client.call(api.agentStart, { body: { configId: id } });
    expect(await sentence(client.call(api.agentComplete, { body: { logId, status: 'completed' } }))).toMatch(
      /^422 backups\.upload_mismatch: There is no object fleet\/a\/.*archive\.tar\.gz at the destination\. /,
    );
    expect(await server.as('viewer').call(showRun, { params: { id: logId } })).toMatchObject({ state: 'running' });
  });

  test.concurrent('STS: what was handed out opens the run’s own prefix alone', async () => {
    await using server = await startTestServer();
    const bucket = await gateway.bucket();
    const agent = await register(server);
    const { config_id: configId } = await createS3Config(server, gateway, {
      bucket,
      destination: { access: 'sts', sts: { role_arn: gateway.roleArn, endpoint: gateway.endpoint } },
      more: { nodes: ['Davids-MacBook'] },
    });
    const { s3Config } = await withKey(server, agent.apiKey).call(api.agentStart, { body: { configId } });
    if (!s3Config) throw new Error('no way to S3');
    const { key, accessKeyId, secretAccessKey, sessionToken = '' } = s3Config;
    const s3 = new S3Client({
      region: s3Config.region,
      endpoint: gateway.endpoint,
      forcePathStyle: true,
      credentials: { accessKeyId, secretAccessKey, sessionToken },
      requestChecksumCalculation: 'WHEN_REQUIRED',
      maxAttempts: 1,
    });
    const put = async (Key: string) =>
      s3.send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'x' })).then(
        () => 'stored',
        (error: Error) => error.name,
      );
    expect([await put(key), await put(key.replace(agent.id, 'another')), await put('x')]).toEqual([
      'stored',
      'AccessDenied',
      'AccessDenied',
    ]);
    s3.destroy();
  });
});
