import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ListBucketsCommand, S3Client } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { RADOSGW_REGION } from './radosgw.ts';

/** In a process of its own that is then killed: nothing of it may stay. */
const HOLDER = `
  import { startRadosgw } from ${JSON.stringify(new URL('./radosgw.ts', import.meta.url).href)};
  const gateway = await startRadosgw();
  const bucket = await gateway.bucket('first');
  const { endpoint, accessKey, secretKey, pids } = gateway;
  console.log(JSON.stringify({ endpoint, accessKey, secretKey, pids, bucket }));
  setInterval(() => {}, 60_000);
`;

test('the S3 gateway of the tests checks keys, and does not outlive the process that started it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-holder-'));
  const holder = spawn(process.execPath, ['--input-type=module', '-e', HOLDER], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TMPDIR: folder },
    cwd: new URL('.', import.meta.url),
  });
  try {
    const [line] = (await once(holder.stdout, 'data')) as [Buffer];
    const told = JSON.parse(line.toString('utf8')) as {
      endpoint: string;
      accessKey: string;
      secretKey: string;
      pids: Record<string, number>;
    };
    const client = (secretAccessKey: string) =>
      new S3Client({
        endpoint: told.endpoint,
        region: RADOSGW_REGION,
        forcePathStyle: true,
        credentials: { accessKeyId: told.accessKey, secretAccessKey },
        maxAttempts: 1,
      });
    const { Buckets } = await client(told.secretKey).send(new ListBucketsCommand({}));
    expect(Buckets?.map(({ Name }) => Name)).toEqual(['first']);
    await expect(client('another').send(new ListBucketsCommand({}))).rejects.toMatchObject({
      $metadata: { httpStatusCode: 403 },
    });

    holder.kill('SIGKILL');
    await waitFor('the three processes to be gone', () => !Object.values(told.pids).some(runs));
  } finally {
    holder.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  }
});

const runs = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
