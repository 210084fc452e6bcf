import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { controlStream } from '../src/control.ts';
import { type BackupServer, startBackupServer } from './backup-server.ts';
import { endedRun, listing, plantTree, tempFolder } from './backup-stage.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** Backups into a folder: what is full, gone, planted or removed there; several at once; what the control socket refuses. */

const MIB = 1024 * 1024;
const run = async (node: TestNode, config: string): Promise<Record<string, unknown> | undefined> => {
  let last: unknown;
  for await (const line of controlStream(node.dataDir, { op: 'backup-run', config })) last = line;
  return last as Record<string, unknown> | undefined;
};
const known = (server: BackupServer, configId: string) => waitFor('the report', () => server.reportOf(configId));
/** A file system of its own, of so many MiB. Needs root. */
const smallDisk = (mib: number): string => {
  const path = tempFolder('disk');
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'aegis-test', path]);
  onTestFinished(() => void execFileSync('umount', ['-l', path]));
  return path;
};

test('a full destination fails the run by its name, and what was written of it is removed', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, disk] = [tempFolder(), smallDisk(4)];
  plantTree(source, 8);
  await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: disk }, retries: { max: 0 } },
    { name: 'tree' },
  );
  await known(server, config_id);
  expect(await run(node, 'tree')).toMatchObject({ state: 'failed', reason: { code: 'backups.destination_full' } });
  const ended = await endedRun(server, config_id);
  const folder = join(disk, ended.prefix);
  expect(existsSync(folder) ? readdirSync(folder) : []).toEqual([]);
});

test('a destination that is not there, or is a link somewhere below, is refused and nothing is written elsewhere', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, elsewhere] = [tempFolder(), tempFolder(), tempFolder()];
  plantTree(source, 0);
  const daemon = await node.start();
  const gone = server.configure(
    { sources: [source], destination: { kind: 'file', path: join(destination, 'missing') }, retries: { max: 0 } },
    { name: 'gone' },
  );
  const linked = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination }, retries: { max: 0 } },
    { name: 'linked' },
  );
  symlinkSync(elsewhere, join(destination, daemon.uid));
  await known(server, gone.config_id);
  await known(server, linked.config_id);
  for (const name of ['gone', 'linked'])
    expect(await run(node, name)).toMatchObject({ state: 'failed', reason: { code: 'backups.destination_failed' } });
  expect(readdirSync(elsewhere)).toEqual([]);
});

test('what retention forgets is removed as this node made it, and nothing else with it', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, precious] = [tempFolder(), tempFolder(), tempFolder()];
  plantTree(source, 0);
  writeFileSync(join(precious, 'statement.json'), 'precious');
  const daemon = await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination } },
    { name: 'tree' },
  );
  await known(server, config_id);
  await run(node, 'tree');
  const first = await endedRun(server, config_id, 0);
  const mine = join(destination, daemon.uid, config_id);
  // Of other runs: one with something of somebody else's in it, one that is a link to a folder that is none of ours.
  const [mixed, link] = ['01a1fd03-ab32-7149-9a1f-000000000001', '01a1fd03-ab32-7149-9a1f-000000000002'];
  mkdirSync(join(mine, mixed, '1'), { recursive: true });
  writeFileSync(join(mine, mixed, '1', 'archive.tar.zst'), 'x');
  writeFileSync(join(mine, mixed, '1', 'notes'), 'not ours');
  symlinkSync(precious, join(mine, link));
  mkdirSync(join(mine, '01a1fd03-ab32-7149-9a1f-000000000003'));
  symlinkSync(precious, join(mine, '01a1fd03-ab32-7149-9a1f-000000000003', '1'));
  server.setForget([
    ...[first.id, mixed, link, '01a1fd03-ab32-7149-9a1f-000000000003'].map((run_id) => ({ config_id, run_id })),
  ]);
  await run(node, 'tree');
  const second = await endedRun(server, config_id, 1);
  await waitFor('the first to go', () => !existsSync(join(mine, first.id)));
  await waitFor('the end of it', () => daemon.status().backups.unreported === 0);
  expect(readdirSync(join(mine, second.id, '1')).sort()).toEqual([
    'archive.tar.zst',
    'manifest.ndjson.zst',
    'statement.json',
  ]);
  expect(readdirSync(join(mine, mixed, '1'))).toEqual(['notes']);
  expect(readdirSync(precious)).toEqual(['statement.json']);
});

test('twenty configurations at once are done in turn, each once', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination] = [tempFolder(), tempFolder()];
  plantTree(source, 1);
  const daemon = await node.start();
  const at = new Date(Date.now() + 5000);
  const cron = `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} * * *`;
  const ids = Array.from({ length: 20 }, (_, nth) =>
    server.configure(
      { sources: [source], destination: { kind: 'file', path: destination }, schedule: { cron } },
      { name: `c${nth}` },
    ),
  ).map(({ config_id }) => config_id);
  let most = 0;
  const all = (): boolean => {
    most = Math.max(most, daemon.status().backups.running);
    return ids.every((id) => server.runsOf(id)[0]?.end);
  };
  await waitFor('all of them', all, 120_000);
  expect(most).toBe(2);
  expect(ids.map((id) => server.runsOf(id).map(({ end }) => end?.state))).toEqual(ids.map(() => ['completed']));
}, 150_000);

test('what was asked for twice, what is not configured, and what is taken off', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination] = [tempFolder(), tempFolder()];
  await node.start();
  await expect(run(node, 'tree')).rejects.toMatchObject({
    code: 'backups.unknown_config',
    message: expect.stringContaining("No backup configuration 'tree' is assigned to this node."),
  });
  const { config_id } = server.configure(
    {
      sources: [source],
      destination: { kind: 'file', path: destination },
      hooks: { before: [{ argv: ['sh', '-c', `until [ -e ${source}/go ]; do sleep 0.02; done`] }] },
    },
    { name: 'tree' },
  );
  await known(server, config_id);
  const first = run(node, 'tree');
  await waitFor('the first', () => server.runsOf(config_id).length === 1);
  await expect(run(node, 'tree')).rejects.toMatchObject({ code: 'backups.busy' });
  server.remove(config_id);
  await waitFor('the tombstone', () => server.reportOf(config_id)?.generation === 2);
  writeFileSync(join(source, 'go'), '');
  expect(await first).toMatchObject({ state: 'completed' }); // what had begun goes on under what it began with
  await expect(run(node, 'tree')).rejects.toMatchObject({ code: 'backups.unknown_config' });
});

test("a restore takes no other node's word than those that it is told, and none that was altered", async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, target] = [tempFolder(), tempFolder(), tempFolder()];
  plantTree(source, 1);
  await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination } },
    { name: 'tree' },
  );
  await known(server, config_id);
  await run(node, 'tree');
  const { id, prefix } = await endedRun(server, config_id);
  const restore = async () => {
    let last: unknown;
    for await (const line of controlStream(node.dataDir, { op: 'backup-restore', run_id: id, target, owners: true }))
      last = line;
    return last;
  };
  expect(await restore()).toMatchObject({ type: 'restore', state: 'completed', error_count: 0 });
  expect(listing(join(target, source))).toBe(listing(source));
  const path = join(destination, prefix, 'archive.tar.zst');
  writeFileSync(path, Buffer.alloc(MIB));
  await expect(restore()).rejects.toMatchObject({ code: 'backups.bad_archive' });
  writeFileSync(join(destination, prefix, 'statement.json'), '{}');
  await expect(restore()).rejects.toMatchObject({ code: 'backups.bad_statement' });
});
