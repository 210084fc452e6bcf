import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ACCESS_WAYS } from '@aegis/protocol/backups/config';
import type { Run } from '@aegis/protocol/backups/run';
import { DeleteObjectCommand, HeadObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';
import { type Radosgw, startRadosgw } from '../fleet/radosgw.ts';

/** What a configuration says of its objects (storage class, object lock, checksums) holds for every object, whoever signs and however it is
 *  written: real server, daemon and S3 server, which has a storage class of its own. */

const MIB = 1024 * 1024;
let fleet: Fleet;
let s3: Radosgw;
let source: string;
beforeAll(async () => {
  [fleet, s3] = await Promise.all([
    startFleet({ direct: true, env: { AEGIS_BACKUPS_PART_BYTES: String(5 * MIB), AEGIS_BACKUPS_MAX_CONCURRENT: '6' } }),
    startRadosgw({ storageClasses: ['COLD'] }),
  ]);
  source = join(fleet.folder, 'source');
  mkdirSync(source);
  writeFileSync(join(source, 'noise'), randomBytes(11 * MIB)); // three parts
  await cli('nodes', 'trust', 'web-1', '--accept-new');
}, 120_000);
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  await s3?.stop();
});
const cli = async (...args: string[]): Promise<string> => {
  const env = cleanEnv(fleet.folder, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token });
  return (await promisify(execFile)(aegis, args, { env, timeout: 60_000 })).stdout;
};

interface Put {
  config: { probe: { ok: boolean; notes: string[] } | null };
}
const configure = async (name: string, destination: Record<string, unknown>): Promise<Put['config']> => {
  const { status, body } = await fleet.api.call('PUT', `/api/v1/backups/configs/${name}`, {
    spec: {
      name,
      sources: [source],
      destination: { kind: 's3', region: 'us-east-1', endpoint: s3.endpoint, path_style: true, ...destination },
      nodes: ['web-1'],
    },
    credentials: { access_key_id: s3.accessKey, secret_access_key: s3.secretKey },
  });
  if (status >= 300) throw new Error(JSON.stringify(body));
  return (body as Put).config;
};
/** A good run, whose archive is as it was signed. */
const backUp = async (name: string): Promise<Run> => {
  await waitFor(`the node to have ${name}`, async () => {
    const { body } = await fleet.api.call('GET', `/api/v1/backups/configs/${name}/nodes`);
    return (body as { items: { taken: boolean }[] }).items.every(({ taken }) => taken);
  });
  await cli('backups', 'run', name, '--node', 'web-1');
  let run: Run | undefined;
  await waitFor('the server to hear of its end', async () => {
    const { body } = await fleet.api.call('GET', `/api/v1/backups/runs?config=${name}&limit=1`);
    [run] = (body as { items: Run[] }).items;
    return run?.state === 'completed';
  });
  if (!run) throw new Error(`no run of ${name}`);
  await cli('backups', 'verify', run.run_id);
  return run;
};
const headsOf = (bucket: string, run: Run) =>
  Promise.all(
    ['archive.tar.zst', 'manifest.ndjson.zst', 'statement.json'].map(async (name) => {
      const Key = `${run.destination.replace(`s3://${bucket}/`, '')}${name}`;
      return { Key, ...(await s3.s3().send(new HeadObjectCommand({ Bucket: bucket, Key }))) };
    }),
  );

// Each has buckets and configurations of its own.
test.concurrent.each(ACCESS_WAYS)(
  '%s: a storage class, and a lock',
  async (access) => {
    const sts = access === 'sts' ? { sts: { role_arn: s3.roleArn, endpoint: s3.endpoint } } : {};
    const bucket = await s3.bucket();
    const cold = { bucket, access, ...sts, storage_class: 'COLD' };
    expect((await configure(`cold-${access}`, cold)).probe).toMatchObject({ ok: true });
    for (const head of await headsOf(bucket, await backUp(`cold-${access}`))) expect(head.StorageClass).toBe('COLD');

    const locking = await s3.bucket(undefined, { objectLock: true });
    const locked = { ...cold, bucket: locking, object_lock_days: 1 };
    expect((await configure(`locked-${access}`, locked)).probe).toMatchObject({ ok: true });
    const run = await backUp(`locked-${access}`);
    const until = Date.parse(run.locked_until ?? '');
    expect(Math.abs(until - Date.now() - 86_400_000)).toBeLessThan(300_000);
    for (const { Key, StorageClass, ObjectLockMode, ObjectLockRetainUntilDate, VersionId } of await headsOf(
      locking,
      run,
    )) {
      expect([StorageClass, ObjectLockMode]).toEqual(['COLD', 'GOVERNANCE']);
      expect(Math.abs((ObjectLockRetainUntilDate?.getTime() ?? 0) - until)).toBeLessThan(300_000);
      await expect(s3.s3().send(new DeleteObjectCommand({ Bucket: locking, Key, VersionId }))).rejects.toMatchObject({
        $metadata: { httpStatusCode: 403 },
      });
    }
  },
  120_000,
);

test.concurrent('a storage class that is not there is said before any run', async () => {
  await expect(configure('warm', { bucket: await s3.bucket(), storage_class: 'WARM' })).rejects.toThrow(
    /backups\.bad_destination.*destination\.storage_class/,
  );
});

test.concurrent('checksums where the S3 server knows them', async () => {
  const bucket = await s3.bucket();
  const { probe } = await configure('summed', { bucket, checksum: 'when_supported' });
  expect(probe).toMatchObject({ ok: true });
  expect((await backUp('summed')).state).toBe('completed');
}, 60_000);
