import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { controlStream } from '../src/control.ts';
import { type BackupServer, startBackupServer } from './backup-server.ts';
import { endedRun, plantTree, tempFolder } from './backup-stage.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** A server that lies to a node about its backups, and users of the node who get in their way. */

const last = async (node: TestNode, op: Parameters<typeof controlStream>[1]): Promise<unknown> => {
  let line: unknown;
  for await (line of controlStream(node.dataDir, op));
  return line;
};
const run = (node: TestNode, config: string) => last(node, { op: 'backup-run', config });
const known = (server: BackupServer, configId: string) => waitFor('the report', () => server.reportOf(configId));

test('a place that is not the own one of the attempt is refused: nothing is written or removed there', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination] = [tempFolder(), tempFolder()];
  plantTree(source, 0);
  const { uid } = await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination }, retries: { max: 0 } },
    { name: 'tree' },
  );
  await known(server, config_id);
  await run(node, 'tree');
  const first = await endedRun(server, config_id, 0);
  const another = 'another-node/config/run/1/';
  mkdirSync(join(destination, another), { recursive: true });
  writeFileSync(join(destination, another, 'archive.tar.zst'), 'precious');
  mkdirSync(join(destination, '1'));
  writeFileSync(join(destination, '1', 'statement.json'), 'precious');
  const lies = [
    first.prefix.replace(/1\/$/, '2/'),
    first.prefix,
    another.replace(/1\/$/, '2/'),
    another,
    '1/',
    '',
    '/',
    '../',
    `${uid}/../1/`,
  ];
  for (const [nth, prefix] of lies.entries()) {
    server.setPrefix(() => prefix);
    expect(await run(node, 'tree'), prefix).toMatchObject({
      state: 'failed',
      reason: { code: 'backups.bad_destination' },
    });
    await endedRun(server, config_id, nth + 1);
  }
  expect(readdirSync(join(destination, first.prefix)).length).toBe(3);
  expect(readFileSync(join(destination, another, 'archive.tar.zst'), 'utf8')).toBe('precious');
  expect(readFileSync(join(destination, '1', 'statement.json'), 'utf8')).toBe('precious');
  expect(readdirSync(destination).sort()).toEqual(['1', 'another-node', uid].sort());
  expect(existsSync(join(destination, '..', 'archive.tar.zst'))).toBe(false);
});

test('another run than the one that was asked for is not restored, whoever signed it', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, target] = [tempFolder(), tempFolder(), tempFolder()];
  writeFileSync(join(source, 'file'), 'old');
  await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination } },
    { name: 'tree' },
  );
  await known(server, config_id);
  await run(node, 'tree');
  const old = await endedRun(server, config_id, 0);
  writeFileSync(join(source, 'file'), 'new');
  await run(node, 'tree');
  const asked = await endedRun(server, config_id, 1);
  asked.prefix = old.prefix;
  await expect(last(node, { op: 'backup-restore', run_id: asked.id, target })).rejects.toMatchObject({
    code: 'backups.bad_statement',
  });
  expect(readdirSync(target)).toEqual([]);
});

test('an exclude file that is a pipe, or has no end, fails the run and holds up nothing', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination] = [tempFolder(), tempFolder()];
  execFileSync('mkfifo', [join(source, 'pipe')]);
  execFileSync('truncate', ['-s', '1T', join(source, 'huge')]);
  await node.start();
  for (const [nth, file] of [join(source, 'pipe'), join(source, 'huge'), '/dev/zero', '/proc/self/fd'].entries()) {
    const { config_id } = server.configure(
      {
        sources: [source],
        destination: { kind: 'file', path: destination },
        retries: { max: 0 },
        exclude: { files: [file] },
      },
      { name: `c${nth}` },
    );
    await known(server, config_id);
    expect(await run(node, `c${nth}`), file).toMatchObject({ state: 'failed', reason: { code: 'backups.bad_config' } });
  }
});
