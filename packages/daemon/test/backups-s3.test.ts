import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import type { Radosgw } from '../../../test/fleet/radosgw.ts';
import { RADOSGW_REGION, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { controlStream } from '../src/control.ts';
import { startBackupServer } from './backup-server.ts';
import { endedRun, listing, plantTree, tempFolder, unpack } from './backup-stage.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** Backups into a real S3 server, by requests that the server signs or by a sealed credential. */

let rados: Radosgw;
beforeAll(async () => {
  rados = await startRadosgw();
}, 120_000);
afterAll(() => rados?.stop());

const MIB = 1024 * 1024;
const account = () => ({ access_key_id: rados.accessKey, secret_access_key: rados.secretKey });
const into = (bucket: string, more: Record<string, unknown> = {}) => ({
  kind: 's3' as const,
  bucket,
  region: RADOSGW_REGION,
  endpoint: rados.endpoint,
  path_style: true,
  ...more,
});
const small = { backups_part_bytes: 5 * MIB };

test.each(['signed', 'presigned', 'static', 'sts'] as const)(
  'a tree in parts, %s: all of it lies there, proven, and comes back',
  async (access) => {
    await using server = await startBackupServer({ account: account() });
    await using node = testNode(server);
    const source = tempFolder();
    plantTree(source, 18);
    await node.start({ flags: small });
    if (access === 'static' || access === 'sts') {
      const pem = readFileSync(join(node.dataDir, 'sealing.key'), 'utf8');
      const { keyPairFromPem } = await import('@aegis/protocol/access/keys');
      server.sealTo(keyPairFromPem(pem).publicRaw, account());
    }
    const sts = access === 'sts' ? { sts: { role_arn: rados.roleArn } } : {};
    const destination = into(await rados.bucket(), { access, ...sts, prefix: 'team/a' });
    const { config_id } = server.configure({ sources: [source], destination }, { name: 'tree' });
    await waitFor('the report', () => server.reportOf(config_id));
    for await (const _ of controlStream(node.dataDir, { op: 'backup-run', config: 'tree' }));
    const run = await endedRun(server, config_id);
    expect(run).toMatchObject({ attempt: 1, refusedEnds: [], end: { state: 'completed', reason: null } });
    expect(run.end?.uploaded_bytes).toBeGreaterThan(18 * MIB);
    const archive = await server.objectOf(run, 'archive');
    expect(listing(unpack(archive ?? Buffer.alloc(0), source))).toBe(listing(source));
    const writes = server.signed.flatMap(({ requests }) => requests).filter(({ method }) => method === 'PUT');
    expect(writes.length).toBe(access.endsWith('signed') ? 6 : 0); // four parts, manifest, statement
    expect(server.refusedSigns).toEqual([]);
    expect(readdirSync(join(node.dataDir, 'backups', 'spool'))).toEqual([]);

    const target = tempFolder();
    const told: unknown[] = [];
    const request = { op: 'backup-restore' as const, run_id: run.id, target, owners: true };
    for await (const line of controlStream(node.dataDir, request)) told.push(line);
    expect(told.at(-1)).toMatchObject({ type: 'restore', state: 'completed', error_count: 0, archive_verified: true });
    expect(listing(join(target, source))).toBe(listing(source));
  },
);

test('what is small goes up whole, in three requests; where nothing is create-only, in uploads that the server completes', async () => {
  for (const conditionalWrites of [true, false]) {
    await using server = await startBackupServer({ account: account(), conditionalWrites });
    await using node = testNode(server);
    const source = tempFolder();
    plantTree(source, 0);
    await node.start();
    const destination = into(await rados.bucket());
    const { config_id } = server.configure({ sources: [source], destination, schedule: { cron: '* * * * * *' } });
    const run = await endedRun(server, config_id);
    expect(run).toMatchObject({ start: { trigger: 'schedule' }, refusedEnds: [], end: { state: 'completed' } });
    expect(run.uploads.size).toBe(conditionalWrites ? 0 : 3);
    server.remove(config_id);
  }
});

test('in the signed way no secret is in the memory, the files, the environment or the traffic of a node', async () => {
  await using proxy = await startHostileS3(rados.endpoint);
  await using server = await startBackupServer({ account: account(), ownEndpoint: rados.endpoint });
  await using node = testNode(server);
  const source = tempFolder();
  plantTree(source, 6);
  proxy.watch(rados.secretKey);
  const flags = { ...node.config(small), labels: 'a=b' };
  const script = `import { runDaemon } from ${JSON.stringify(new URL('../src/main.ts', import.meta.url).href)};
    process.exitCode = await runDaemon({ flags: JSON.parse(process.env.FLAGS), env: process.env, json: true });`;
  const child = spawn(
    'setpriv',
    ['--pdeathsig', 'KILL', process.execPath, '--input-type=module-typescript', '-e', script],
    {
      env: { PATH: process.env.PATH, FLAGS: JSON.stringify(flags) },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  try {
    await waitFor('enrolment', () => server.nodes.size > 0);
    const destination = { ...into(await rados.bucket()), endpoint: proxy.url };
    const marker = 'aegis-backup-jitter'; // what is surely there: the search works
    const { config_id } = server.configure({ sources: [source], destination, schedule: { cron: '* * * * * *' } });
    const run = await endedRun(server, config_id);
    expect(run.end?.state).toBe('completed');
    expect(inMemory(child.pid ?? 0, run.id)).toBe(true);
    expect(inMemory(child.pid ?? 0, rados.secretKey)).toBe(false);
    expect(inMemory(child.pid ?? 0, Buffer.from(rados.secretKey).toString('base64').slice(0, 20))).toBe(false);
    expect(marker).toBeTruthy();
    expect(readFileSync(`/proc/${child.pid}/environ`).includes(rados.secretKey)).toBe(false);
    expect(inFiles(node.dataDir, run.id)).toBe(true);
    expect(inFiles(node.dataDir, rados.secretKey)).toBe(false);
    expect(proxy.seen.length).toBeGreaterThan(0);
    expect([...proxy.found]).toEqual([]);
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
});

/** Every readable mapping of a process. */
const inMemory = (pid: number, text: string): boolean => {
  const needle = Buffer.from(text);
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const match = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line);
      if (!match || line.endsWith('[vvar]') || line.endsWith('[vsyscall]')) continue;
      const [start, end] = [Number.parseInt(match[1] ?? '', 16), Number.parseInt(match[2] ?? '', 16)];
      const chunk = Buffer.alloc(Math.min(end - start, 4 * MIB) + needle.length);
      for (let at = start; at < end; at += 4 * MIB) {
        try {
          const bytes = readSync(fd, chunk, 0, Math.min(end - at, chunk.length), at);
          if (chunk.subarray(0, bytes).includes(needle)) return true;
        } catch {
          break; // gone meanwhile
        }
      }
    }
    return false;
  } finally {
    closeSync(fd);
  }
};
const inFiles = (folder: string, text: string): boolean =>
  readdirSync(folder, { recursive: true, withFileTypes: true }).some((entry) => {
    const path = join(entry.parentPath, entry.name);
    return entry.isFile() && existsSync(path) && statSync(path).size > 0 && readFileSync(path).includes(text);
  });
