import { randomUUID } from 'node:crypto';
import { signDirective } from '@aegis/protocol/access/directive';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { expect, test } from 'vitest';
import { startBackupServer } from './backup-server.ts';
import { tempFolder } from './backup-stage.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** Configurations that a hostile, broken or restored server might give. Each that is genuine and refused names its reason. */

const work = (path: string) => ({ sources: ['/etc'], destination: { kind: 'file' as const, path } });

test('generations only go forward; what is refused is told, and changes nothing', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const daemon = await node.start();
  const path = tempFolder();
  const body = server.configure(work(path), { name: 'etc' });
  const { config_id: id } = body;
  await waitFor('the first', () => server.reportOf(id)?.generation === 1);
  server.configure(work(path), { name: 'etc', config_id: id, paused: true });
  await waitFor('the second', () => server.reportOf(id)?.generation === 2);

  const refusal = (code: string) =>
    waitFor(code, () => server.reportOf(id)?.refusal?.code === code && server.reportOf(id));
  server.give([signDirective(server.directiveOf(body, 1), server.serverKey)]);
  expect(await refusal('backups.stale_generation')).toMatchObject({ generation: 2 });
  server.give([signDirective(server.directiveOf(body, 2), server.serverKey)]);
  expect(await refusal('backups.generation_conflict')).toMatchObject({ generation: 2 });
  server.give([signDirective(server.directiveOf({ ...body, name: 'UPPER' }, 3), server.serverKey)]);
  expect(await refusal('access.bad_directive')).toMatchObject({ generation: 2 });
  server.give([
    signDirective(
      server.directiveOf(body, 4, { expires_at: new Date(Date.now() - 1000).toISOString() }),
      server.serverKey,
    ),
  ]);
  expect(await refusal('access.stale_directive')).toMatchObject({ generation: 2 });
  expect(await daemon.backups()).toMatchObject([{ name: 'etc', generation: 2, paused: true }]);

  // What nobody of ours signed, or what is for somebody else, is only logged.
  const told = server.reports.length;
  const stranger = generateKeyPair();
  server.give([
    signDirective(server.directiveOf(body, 9), stranger),
    signDirective(server.directiveOf(body, 9, { targets: { node_keys: [stranger.keyId] } }), server.serverKey),
    signDirective(server.directiveOf(body, 9, { kind: 'command.run' }), server.serverKey),
    'nonsense',
  ]);
  const revision = server.desired();
  await waitFor('them to be read', () => daemon.desiredRevision() === revision);
  expect(server.reports).toHaveLength(told);
  expect(await daemon.backups()).toMatchObject([{ generation: 2 }]);

  server.configure(work(path), { name: 'etc', config_id: id });
  await waitFor('the third', () => server.reportOf(id)?.generation === 3 && server.reportOf(id)?.refusal === null);
});

test('a tombstone holds over a restart, and so does what was refused', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const path = tempFolder();
  const first = await node.start({ flags: { backups_max_configs: 1 } });
  const kept = server.configure(work(path), { name: 'kept' });
  await waitFor('the first', () => server.reportOf(kept.config_id)?.generation === 1);
  const gone = randomUUID();
  server.configure(work(path), { name: 'more', config_id: gone });
  await waitFor('the refusal', () => server.reportOf(gone)?.refusal?.code === 'backups.storage_full');
  await first.close();
  server.reports.length = 0;

  const second = await node.start({ flags: { backups_max_configs: 1 } });
  await waitFor('what it holds', () => server.reportOf(gone));
  expect(server.reportOf(gone)?.refusal?.code).toBe('backups.storage_full');
  expect(await second.backups()).toMatchObject([{ name: 'kept' }]);
  server.remove(kept.config_id);
  await waitFor('the tombstone', () => server.reportOf(kept.config_id)?.generation === 2);
  await waitFor('the room', () => server.reportOf(gone)?.refusal === null);
  expect(await second.backups()).toMatchObject([{ name: 'more' }]);
  server.give([signDirective(server.directiveOf(kept, 1), server.serverKey)]);
  await waitFor('the refusal', () => server.reportOf(kept.config_id)?.refusal?.code === 'backups.stale_generation');
  expect(await second.backups()).toMatchObject([{ name: 'more' }]);
});
