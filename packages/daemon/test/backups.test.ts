import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { controlDaemon, controlStream } from '../src/control.ts';
import { startBackupServer } from './backup-server.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** The daemon's backups into a folder, end to end: configured by a signed directive, run, proven, restored. */

const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-backup-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
};
const lines = async (stream: AsyncIterable<unknown>): Promise<Record<string, unknown>[]> => {
  const all: Record<string, unknown>[] = [];
  for await (const line of stream) all.push(line as Record<string, unknown>);
  return all;
};

test('a folder is backed up into another on request, and comes back by stock tools and by the daemon', async () => {
  await using server = await startBackupServer();
  await using node = testNode(server);
  const [source, destination, target] = [folder(), folder(), folder()];
  mkdirSync(join(source, 'sub'));
  writeFileSync(join(source, 'one'), 'one\n');
  writeFileSync(join(source, 'sub', 'two'), 'two\n'.repeat(100_000));
  const daemon = await node.start();
  const { config_id } = server.configure({ sources: [source], destination: { kind: 'file', path: destination } });
  await waitFor('the report', () => server.reportOf(config_id));
  expect(server.reportOf(config_id)).toEqual({ config_id, generation: 1, next_run_at: null, refusal: null });

  const told = await lines(controlStream(node.dataDir, { op: 'backup-run', config: 'etc' }));
  const end = told.at(-1);
  expect(end).toMatchObject({
    type: 'run',
    state: 'completed',
    reason: null,
    errors: [],
    totals: { files: 2, errors: 0 },
  });
  expect(told.slice(0, -1).every(({ type }) => type === 'progress')).toBe(true);
  const runId = String(end?.run_id);
  await waitFor('the end', () => server.runs.get(runId)?.end);
  expect(server.runs.get(runId)).toMatchObject({
    start: { trigger: 'request' },
    refusedEnds: [],
    end: { state: 'completed', attempt: 1 },
  });
  const prefix = join(destination, server.runs.get(runId)?.prefix ?? '');
  expect(readdirSync(prefix).sort()).toEqual(['archive.tar.zst', 'manifest.ndjson.zst', 'statement.json']);
  expect(readdirSync(join(node.dataDir, 'backups', 'spool'))).toEqual([]);

  execFileSync('sh', ['-c', `zstd -qdc ${join(prefix, 'archive.tar.zst')} | tar -x -C ${target}`]);
  expect(readFileSync(join(target, source, 'one'), 'utf8')).toBe('one\n');
  expect(readFileSync(join(target, source, 'sub', 'two'), 'utf8')).toBe('two\n'.repeat(100_000));

  await waitFor('its answer', () => daemon.status().backups.unreported === 0);
  expect(daemon.status().backups).toEqual({ configs: 1, running: 0, queued: 0, unreported: 0, failed: [] });
  expect(await controlDaemon(node.dataDir, { op: 'backups' })).toMatchObject({
    configs: [{ name: 'etc', generation: 1, running: null, last: { run_id: runId, state: 'completed' } }],
  });
});
