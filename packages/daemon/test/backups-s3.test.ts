import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { formsOf, foundInFiles, foundInProcess } from '../../../test/faults/secret-search.ts';
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

test.concurrent.each(['signed', 'presigned', 'static', 'sts'] as const)(
  'a tree in parts, %s: all of it lies there, proven, and comes back',
  async (access) => {
    await using server = await startBackupServer({ account: account() });
    await using node = testNode(server);
    const source = tempFolder();
    plantTree(source, 11);
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
    expect(run.end?.uploaded_bytes).toBeGreaterThan(11 * MIB);
    const archive = await server.objectOf(run, 'archive');
    expect(listing(unpack(archive ?? Buffer.alloc(0), source))).toBe(listing(source));
    const writes = server.signed.flatMap(({ requests }) => requests).filter(({ method }) => method === 'PUT');
    expect(writes.length).toBe(access.endsWith('signed') ? 5 : 0); // three parts, manifest, statement
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

test.concurrent('what is small goes up whole, in three requests; where nothing is create-only, in uploads that the server completes', async () => {
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

test.concurrent('in the signed way no secret is in the memory, the files, the environment or the traffic of a node', async () => {
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
    const { config_id } = server.configure({ sources: [source], destination, schedule: { cron: '* * * * * *' } });
    const run = await endedRun(server, config_id);
    expect(run.end?.state).toBe('completed');
    const known = new Map([['the run', Buffer.from(run.id)]]); // surely there: the search works
    const secret = new Map(formsOf('the secret', rados.secretKey));
    expect(await foundInProcess(child.pid ?? 0, known)).toEqual(['the run']);
    expect(await foundInProcess(child.pid ?? 0, secret)).toEqual([]);
    expect(foundInFiles(node.dataDir, known)).toEqual(['the run']);
    expect(foundInFiles(node.dataDir, secret)).toEqual([]);
    expect(proxy.seen.length).toBeGreaterThan(0);
    expect([...proxy.found]).toEqual([]);
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
});
