import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { controlStream } from '../src/control.ts';
import { startBackupServer } from './backup-server.ts';
import { tempFolder } from './backup-stage.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** A backup that meets itself: what it writes lies below what it reads. */

const run = async (node: TestNode, config: string): Promise<Record<string, unknown>> => {
  let last: unknown;
  for await (const line of controlStream(node.dataDir, { op: 'backup-run', config })) last = line;
  return last as Record<string, unknown>;
};

test('what it writes itself is not in it: neither its spool nor the archives of the same configuration', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  await node.start();
  const source = node.dataDir;
  const destination = join(source, 'destination');
  mkdirSync(destination);
  writeFileSync(join(source, 'mine'), 'mine');
  mkdirSync(join(node.dataDir, 'backups/spool/other'), { recursive: true });
  writeFileSync(join(node.dataDir, 'backups/spool/other/archive.00001'), 'of another run');
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination } },
    { name: 'tree' },
  );
  await waitFor('the report', () => server.reportOf(config_id));
  for (let nth = 0; nth < 2; nth++) await run(node, 'tree');
  const second = await waitFor('the second', () => server.runsOf(config_id)[1]?.end && server.runsOf(config_id)[1]);
  const folder = join(destination, second?.prefix ?? '');
  expect(existsSync(join(folder, 'archive.tar.zst'))).toBe(true);
  const names = execFileSync('sh', ['-c', `zstd -qdc archive.tar.zst | tar -t`], { cwd: folder, encoding: 'utf8' });
  expect(names).toContain(`${source.slice(1)}/mine\n`);
  expect(names.split('\n').filter((name) => /archive|spool\/./.test(name))).toEqual([]);
});

test('a restore with --delete into the place that was backed up leaves the archives where they are', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  await node.start();
  const source = tempFolder();
  const destination = join(source, 'destination');
  mkdirSync(destination);
  writeFileSync(join(source, 'mine'), 'mine');
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination } },
    { name: 'tree' },
  );
  await waitFor('the report', () => server.reportOf(config_id));
  for (let nth = 0; nth < 2; nth++) await run(node, 'tree');
  const [first, second] = await waitFor('both', () => {
    const runs = server.runsOf(config_id);
    return runs[1]?.end ? runs : null;
  });
  writeFileSync(join(source, 'extra'), 'extra');
  let last: unknown;
  for await (const line of controlStream(node.dataDir, {
    op: 'backup-restore',
    run_id: first?.id ?? '',
    target: '/',
    paths: [],
    overwrite: 'always',
    delete: true,
    owners: true,
  }))
    last = line;
  expect(last).toMatchObject({ type: 'restore', state: 'completed', deleted: 1 });
  for (const one of [first, second])
    expect(existsSync(join(destination, one?.prefix ?? '', 'statement.json'))).toBe(true);
});
