import { execFileSync } from 'node:child_process';
import { copyFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { assignConfig, configNodes } from '@aegis/protocol/backups/endpoints';
import Database from 'better-sqlite3';
import { expect, test } from 'vitest';
import { create, put } from '../../packages/server/test/backups-support.ts';
import { waitFor } from '../faults/wait.ts';
import { startHeldFleet } from '../fleet/in-process.ts';

/** Disks that were set back to an older snapshot: in the end the node holds what the server wishes. */

const stage = async () => {
  const fleet = await startHeldFleet();
  const node = fleet.node('web-1');
  await node.start();
  const { server } = fleet;
  const listed = async () =>
    (await server.as('viewer').call(configNodes, { params: { id: 'home' } })).items.map(
      ({ generation, taken }) => `${generation} ${taken}`,
    );
  const tombstones = () =>
    server.running.storage.read
      .selectFrom('backups_assignments')
      .select(['generation', 'present', 'confirmed'])
      .execute();
  return {
    fleet,
    node,
    tombstones,
    changed: (tag: string) => put(server, 'home', { nodes: ['web-1'], tags: [tag] }),
    create: () => create(server, { nodes: ['web-1'] }),
    assign: (body: { add?: string[]; remove?: string[] }) =>
      server.as('operator').call(assignConfig, { params: { id: 'home' }, body }),
    taken: (generation: number) =>
      waitFor(`generation ${generation} to be taken`, async () => (await listed()).join() === `${generation} true`),
    dropped: (generation: number) =>
      waitFor(`generation ${generation} to be dropped`, async () => {
        const [row] = await tombstones();
        return row?.generation === generation && row.present === 0 && row.confirmed === 1;
      }),
    [Symbol.asyncDispose]: () => fleet[Symbol.asyncDispose](),
  };
};

test('a node of before an unassignment drops the configuration again', async () => {
  await using on = await stage();
  const snapshot = `${on.node.dataDir}.snapshot`;
  await on.create();
  await on.taken(1);
  await on.node.stop();
  execFileSync('cp', ['-a', on.node.dataDir, snapshot]);
  await on.node.start();
  await on.assign({ remove: ['web-1'] });
  await on.dropped(2);
  await on.node.stop();
  rmSync(on.node.dataDir, { recursive: true });
  renameSync(snapshot, on.node.dataDir);
  await on.node.start({ bootId: 'the next one' });
  await on.dropped(3);
  await on.assign({ add: ['web-1'] });
  await on.taken(4);
});

test('a server of before two changes goes on with a generation that the node takes', async () => {
  await using on = await stage();
  const { server, folder } = on.fleet;
  await on.create();
  await on.taken(1);
  const file = join(server.dataDir, 'aegis.db');
  const copy = join(folder, 'of-before.db');
  const db = new Database(file, { readonly: true });
  db.prepare('VACUUM INTO ?').run(copy);
  db.close();
  await on.changed('one');
  await on.changed('two');
  await on.taken(3);
  await server.running.close();
  for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
  copyFileSync(copy, file);
  await server.restart();
  await on.taken(4);
  await on.changed('three');
  await on.taken(5);
  expect((await on.tombstones()).length).toBe(1);
});
