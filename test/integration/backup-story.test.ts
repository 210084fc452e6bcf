import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';
import { type Radosgw, startRadosgw } from '../fleet/radosgw.ts';

/** Step by step what an operator does with backups, by the real CLI, server, daemons and a real S3 server: configure, run, look, verify,
 *  restore here, restore there, restore without Aegis, forget. */

let fleet: Fleet;
let s3: Radosgw;
let bucket: string;
let home: string;
let source: string;
beforeAll(async () => {
  [fleet, s3] = await Promise.all([startFleet({ nodes: 2, direct: true }), startRadosgw()]);
  bucket = await s3.bucket();
  home = join(fleet.folder, 'operator');
  mkdirSync(home, { mode: 0o700 });
  source = join(fleet.folder, 'documents');
  mkdirSync(join(source, 'deep', 'er'), { recursive: true });
  writeFileSync(join(source, 'letter.txt'), 'Dear reader,\n');
  writeFileSync(join(source, 'deep', 'er', 'noise.bin'), randomBytes(9_000_000), {
    mode: 0o600,
  });
  writeFileSync(join(source, 'cache.tmp'), 'not wanted');
  execFileSync('ln', ['-s', '../letter.txt', join(source, 'deep', 'link')]);
  execFileSync('ln', [join(source, 'letter.txt'), join(source, 'deep', 'same')]);
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  await s3?.stop();
});

const env = (more: Record<string, string> = {}) =>
  cleanEnv(home, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token, ...more });
const run = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(aegis, args, { env: env(), encoding: 'utf8', timeout: 120_000 });
  return { status, stdout, stderr };
};
const ok = (...args: string[]): string => {
  const { status, stdout, stderr } = run(...args);
  if (status !== 0)
    throw new Error(
      `aegis ${args.join(' ')}: ${status}\n${stdout}${stderr}\n${fleet.server.log().slice(-3000)}\n${fleet.nodes[0]?.daemon.log().slice(-3000)}`,
    );
  return stdout;
};
const json = <T>(...args: string[]): T => JSON.parse(ok(...args, '--json')) as T;
const objectsOf = async () => (await s3.s3().send(new ListObjectsV2Command({ Bucket: bucket }))).Contents ?? [];
const listing = (folder: string): string =>
  execFileSync('find', ['.', '-printf', '%P %y %m %s %T@ %l %n\n'], { cwd: folder, encoding: 'utf8' })
    .split('\n')
    // A folder's size is its file system's business.
    .map((line) => line.replace(/ d (\d+) \d+ /, ' d $1 - '))
    .sort()
    .join('\n');

interface Listed {
  run_id: string;
  removed_at: string | null;
}
let runId: string;
let identity: string;

test('a configuration, a run, and what is there then', async () => {
  identity = join(home, 'backup.key');
  const recipient = /age1[a-z0-9]+/.exec(ok('backups', 'key', 'generate', '--output', identity))?.[0] ?? '';
  const credentials = join(home, 's3.json');
  writeFileSync(credentials, JSON.stringify({ access_key_id: s3.accessKey, secret_access_key: s3.secretKey }), {
    mode: 0o600,
  });
  ok(
    ...['backups', 'configs', 'create', 'documents', '--source', source, '--to', `s3://${bucket}/fleet`],
    ...['--endpoint', s3.endpoint, '--path-style', '--credentials-file', credentials, '--recipient', recipient],
    ...['--exclude', '*.tmp', '--node', 'web-1', '--keep-last', '1'],
  );
  const followed = run('backups', 'run', 'documents', '--node', 'web-1', '--follow');
  expect(followed).toMatchObject({ status: 0 });
  const { runs } = json<{ runs: Listed[] }>('backups', 'runs', '--config', 'documents');
  expect(runs).toMatchObject([{ state: 'completed', node: 'web-1', encrypted: true, totals: { files: 3, errors: 0 } }]);
  runId = runs[0]?.run_id ?? '';
  const objects = await objectsOf();
  expect(objects.map(({ Key = '' }) => Key.split('/').at(-1)).sort()).toEqual([
    'archive.tar.zst.age',
    'manifest.ndjson.zst.age',
    'statement.json',
  ]);
  expect((await s3.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads ?? []).toEqual([]);
});

test('its content is shown and verified, and a node that nobody trusts is not believed', () => {
  const before = run('backups', 'ls', runId, '--identity', identity);
  expect(before).toMatchObject({ status: 1, stdout: '' });
  expect(before.stderr).toContain('aegis nodes trust web-1');
  ok('nodes', 'trust', 'web-1', '--accept-new');
  expect(ok('backups', 'ls', runId, '--identity', identity)).toContain('letter.txt');
  expect(ok('backups', 'cat', runId, join(source, 'letter.txt'), '--identity', identity)).toBe('Dear reader,\n');
  ok('backups', 'verify', runId, '--identity', identity);
});

test('restored here, on the node that made it, and on another: the same tree', () => {
  const wanted = (() => {
    const copy = join(fleet.folder, 'wanted');
    execFileSync('cp', ['-a', source, copy]);
    rmSync(join(copy, 'cache.tmp'));
    execFileSync('touch', ['-r', source, copy]);
    return listing(copy);
  })();
  const here = join(fleet.folder, 'here');
  ok('backups', 'restore', runId, '--target', here, '--identity', identity);
  expect(listing(join(here, source))).toBe(wanted);
  for (const node of ['web-1', 'web-2']) {
    const there = join(fleet.folder, `at-${node}`);
    ok('nodes', 'trust', node, '--accept-new');
    ok('backups', 'restore', runId, '--node', node, '--target', there, '--identity', identity);
    expect(listing(join(there, source))).toBe(wanted);
  }
});

test('restored by age, zstd and tar alone', async () => {
  const stock = join(fleet.folder, 'stock');
  mkdirSync(stock);
  const objects = await objectsOf();
  const key = objects.find(({ Key }) => Key?.endsWith('archive.tar.zst.age'))?.Key ?? '';
  const body = (await s3.s3().send(new GetObjectCommand({ Bucket: bucket, Key: key }))).Body;
  const archive = join(fleet.folder, 'archive.tar.zst.age');
  writeFileSync(archive, (await body?.transformToByteArray()) ?? '');
  execFileSync('bash', [
    '-c',
    'set -o pipefail; age -d -i "$1" "$2" | zstd -d | tar --xattrs --acls -x -C "$3"',
    'bash',
    identity,
    archive,
    stock,
  ]);
  expect(readdirSync(join(stock, source)).sort()).toEqual(['deep', 'letter.txt']);
  expect(listing(join(stock, source))).toBe(listing(join(fleet.folder, 'here', source)));
});

test('the next run makes the first one go, and retention says why', async () => {
  ok('backups', 'run', 'documents', '--node', 'web-1', '--follow');
  await waitFor('the first one to be removed', async () => (await objectsOf()).length === 3);
  const gone = json<{ runs: Listed[] }>('backups', 'runs', '--config', 'documents', '--removed').runs;
  expect(gone.map(({ run_id, removed_at }) => [run_id === runId, removed_at !== null])).toEqual([
    [false, false],
    [true, true],
  ]);
  const objects = await objectsOf();
  expect(objects).toHaveLength(3);
  expect(objects.some(({ Key }) => Key?.includes(runId))).toBe(false);
});

test('no secret of S3 is anywhere in what the node keeps', () => {
  for (const { dataDir } of fleet.nodes)
    expect(spawnSync('grep', ['-rlaF', s3.secretKey, dataDir], { encoding: 'utf8' }).stdout).toBe('');
  expect(readFileSync(join(fleet.folder, 'server.log'), 'utf8')).not.toContain(s3.secretKey);
});
