import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fleet, startFleet } from '../../../test/fleet/fleet.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { cliOfFile, type Said } from './cli-process.ts';
import { scratch } from './made-run.ts';

/** The commands of backups against a real S3 server: from a configuration to files on the operator's machine, through links alone. */

const cli = cliOfFile();
const place = scratch();
const at = (...names: string[]) => join(place.path, ...names);
const native = join(import.meta.dirname, '../../native/build/Release');
let fleet: Fleet;
let s3: Radosgw;
let bucket: string;
beforeAll(async () => {
  [fleet, s3] = await Promise.all([startFleet({ nodes: 2 }), startRadosgw()]);
  bucket = await s3.bucket();
  mkdirSync(at('source', 'sub'), { recursive: true });
  writeFileSync(at('source', 'a'), 'first\n');
  writeFileSync(at('source', 'sub', 'large'), Buffer.alloc(9_000_000, 'not so easy to pack 0123456789\n'));
  writeFileSync(
    at('key.ini'),
    `[default]\naws_access_key_id = ${s3.accessKey}\naws_secret_access_key = ${s3.secretKey}\n`,
  );
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  await s3?.[Symbol.asyncDispose]();
  place[Symbol.dispose]();
});

const aegis = (...args: string[]): Promise<Said> =>
  cli.text(args, {
    env: { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token, AEGIS_NATIVE_DIR: native },
    cwd: place.path,
  });

test('a bucket, tried, filled, verified and restored here and on another node', async () => {
  const recipient = (await aegis('backups', 'key', 'generate', '-o', 'backup.key')).stdout.trim();
  const create = [
    'backups',
    'configs',
    'create',
    'data',
    '--source',
    at('source'),
    '--to',
    `s3://${bucket}/some/where`,
  ];
  const s3Flags = ['--endpoint', s3.endpoint, '--path-style'];
  const refused = await aegis(...create, ...s3Flags);
  expect([refused.code, refused.stdout]).toEqual([1, '']);
  const made = await aegis(
    ...[...create, ...s3Flags, '--credentials-file', 'key.ini', '--node', 'web-1', '--recipient', recipient, '--json'],
  );
  expect(made).toMatchObject({ code: 0, stderr: '' });
  expect(made.stdout).not.toContain(s3.secretKey);
  expect(JSON.parse(made.stdout).config).toMatchObject({
    credentials: { access_key_id: s3.accessKey },
    probe: { ok: true },
  });
  expect((await aegis('backups', 'configs', 'probe', 'data')).code).toBe(0);

  expect(await aegis('backups', 'run', 'data', '--node', 'web-1')).toMatchObject({ code: 0, stderr: '' });
  const [listed] = JSON.parse((await aegis('backups', 'list', '--json')).stdout).runs;
  expect(listed).toMatchObject({ encrypted: true, state: 'completed', node: 'web-1' });

  await aegis('nodes', 'trust', 'web-1', '--accept-new');
  const run = 'latest:data@web-1';
  const here = await aegis('backups', 'restore', run, '-t', 'here', '-i', 'backup.key');
  expect(here).toEqual({ code: 0, stdout: 'restored: 4 below here\nwritten:  8.6 MiB\n', stderr: '' });
  execFileSync('diff', ['-r', at('here', at('source')), at('source')]);
  const part = ['backups', 'restore', listed.run_id.slice(0, 23), '-t', 'part', '-i', 'backup.key', '--path', 'a'];
  expect(await aegis(...part)).toMatchObject({ code: 0 });
  expect(readdirSync(at('part', at('source')))).toEqual(['a']);
  expect(await aegis('backups', 'cat', run, at('source', 'a'), '-i', 'backup.key')).toEqual({
    code: 0,
    stdout: 'first\n',
    stderr: '',
  });
  expect(await aegis('backups', 'verify', run, '-i', 'backup.key')).toMatchObject({ code: 0, stderr: '' });
  expect((await aegis('backups', 'verify', run, '-i', 'backup.key', '--sample', '50%')).code).toBe(0);
  const onServer = await aegis('backups', 'verify', run, '--server-side');
  expect([onServer.code, onServer.stdout.split('\n')[0]]).toEqual([0, 'verified: good, by the server']);

  // Another node: it is granted the run, and gets the identity sealed to the key that was pinned.
  const there = ['backups', 'restore', run, '--node', 'web-2', '-t', at('there'), '-i', 'backup.key'];
  expect(await aegis(...there)).toMatchObject({
    code: 1,
    stderr:
      "aegis: The identity would be sealed to web-2's key, which you do not trust yet: compare it and run 'aegis nodes trust web-2'.\n",
  });
  await aegis('nodes', 'trust', 'web-2', '--accept-new');
  expect(await aegis(...there)).toMatchObject({ code: 0, stderr: '' });
  execFileSync('diff', ['-r', at('there', at('source')), at('source')]);
});

test('what was changed in the bucket is not restored', async () => {
  const [listed] = JSON.parse((await aegis('backups', 'list', '--json')).stdout).runs;
  const { PutObjectCommand, ListObjectsV2Command } = await import('@aws-sdk/client-s3');
  const client = s3.s3();
  const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: 'some/where/' }));
  const archive = Contents.find(({ Key }) => Key?.includes(listed.run_id) && Key.endsWith('.tar.zst.age'));
  const Body = Buffer.alloc(archive?.Size ?? 0, 1);
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: archive?.Key ?? '', Body }));
  client.destroy();
  const said = await aegis('backups', 'restore', listed.run_id, '-t', 'spoilt', '-i', 'backup.key', '--json');
  expect(said.code).toBe(1);
  expect(readdirSync(place.path)).not.toContain('spoilt/a');
  expect((await aegis('backups', 'verify', listed.run_id, '--server-side')).code).toBe(1);
  expect((await aegis('backups', 'show', listed.run_id)).stdout).toContain('verified: ');
  expect(readFileSync(at('backup.key'), 'utf8')).toContain('AGE-SECRET-KEY-');
});
