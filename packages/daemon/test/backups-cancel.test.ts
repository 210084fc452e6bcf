import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { controlStream } from '../src/control.ts';
import { startBackupServer } from './backup-server.ts';
import { endedRun, tempFolder } from './backup-stage.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** Who asked for a backup hangs up, at each point of it. */

const wait = (path: string): string[] => [
  'sh',
  '-c',
  `echo $$ > ${path}.pid; until [ -e ${path} ]; do sleep 0.02; done`,
];

for (const phase of ['before', 'after', 'retrying'] as const)
  test(`cancelled while it is ${phase}: it ends so, and nothing of it is left`, async () => {
    await using server = await startBackupServer();
    await using node = testNode(server);
    const [source, destination, notes] = [tempFolder(), tempFolder(), tempFolder()];
    writeFileSync(join(source, 'file'), 'x');
    const daemon = await node.start();
    const hooks = {
      before: phase === 'before' ? [{ argv: wait(join(notes, 'go')) }] : [],
      after: phase === 'after' ? [{ argv: wait(join(notes, 'go')) }] : [],
      on_failure: [{ argv: ['sh', '-c', `echo $AEGIS_STATE $AEGIS_REASON > ${notes}/failed`] }],
    };
    const { config_id } = server.configure(
      {
        sources: [source],
        destination: { kind: 'file', path: phase === 'retrying' ? join(destination, 'missing') : destination },
        retries: { max: 3, backoff_sec: 3600 },
        hooks,
      },
      { name: 'tree' },
    );
    await waitFor('the report', () => server.reportOf(config_id));
    const asker = new AbortController();
    const lines = controlStream(node.dataDir, { op: 'backup-run', config: 'tree' }, asker.signal);
    try {
      for await (const line of lines) if ((line as { phase?: string }).phase === phase) asker.abort();
    } catch {
      // it hung up
    }
    const ended = await endedRun(server, config_id);
    expect(ended.end).toMatchObject({ state: 'cancelled', reason: { code: 'backups.cancelled' }, statement: null });
    await waitFor(
      'its answer',
      () => daemon.status().backups.running === 0 && daemon.status().backups.unreported === 0,
    );
    expect(existsSync(join(destination, ended.prefix))).toBe(false);
    expect(readdirSync(join(node.dataDir, 'backups/spool'))).toEqual([]);
    expect(readFileSync(join(notes, 'failed'), 'utf8')).toBe('cancelled backups.cancelled\n');
    const pid = existsSync(join(notes, 'go.pid')) ? readFileSync(join(notes, 'go.pid'), 'utf8').trim() : '';
    expect(pid !== '' && existsSync(`/proc/${pid}`)).toBe(false);
  });

test('cancelled while it waits for its turn: the server hears of it, and that it ended so', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, notes] = [tempFolder(), tempFolder(), tempFolder()];
  writeFileSync(join(source, 'file'), 'x');
  const daemon = await node.start({ flags: { backups_max_concurrent: 1 } });
  const work = { sources: [source], destination: { kind: 'file' as const, path: destination } };
  const go = join(notes, 'go');
  const first = server.configure({ ...work, hooks: { before: [{ argv: wait(go) }] } }, { name: 'first' });
  const second = server.configure(work, { name: 'second' });
  await waitFor('the reports', () => server.reportOf(first.config_id) && server.reportOf(second.config_id));
  const before = controlStream(node.dataDir, { op: 'backup-run', config: 'first' });
  await before.next();
  await waitFor('the first to begin', () => existsSync(`${go}.pid`));
  const asker = new AbortController();
  const asked = controlStream(node.dataDir, { op: 'backup-run', config: 'second' }, asker.signal);
  const hungUp = asked.next().catch(() => undefined);
  await waitFor('the second to wait', () => daemon.status().backups.queued === 1);
  asker.abort();
  await hungUp;
  writeFileSync(go, '');
  for await (const _ of before);
  const ended = await endedRun(server, second.config_id);
  expect(ended.end).toMatchObject({ state: 'cancelled', reason: { code: 'backups.cancelled' }, statement: null });
  expect((await endedRun(server, first.config_id)).end?.state).toBe('completed');
  expect(existsSync(join(destination, ended.prefix))).toBe(false);
});
