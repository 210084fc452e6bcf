import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Run } from '@aegis/protocol/backups/run';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Fleet, startFleet } from '../../../test/fleet/fleet.ts';
import { cliOfFile, ran, type Said } from './cli-process.ts';
import { scratch } from './made-run.ts';

/** The commands of backups against the real server and real daemons, into a folder of the node. */

const cli = cliOfFile();
const place = scratch();
const at = (...names: string[]) => join(place.path, ...names);
let fleet: Fleet;
beforeAll(async () => {
  mkdirSync(at('source', 'sub'), { recursive: true });
  mkdirSync(at('target'));
  writeFileSync(at('source', 'a'), 'first\n');
  writeFileSync(at('source', 'sub', 'numbers'), Buffer.alloc(200_000, '1234567\n'));
  execFileSync('cp', ['-a', at('source'), at('before')]);
  const own = [
    '--set',
    `backups.server_sources=${at('source')}`,
    '--set',
    `backups.server_destinations=${at('target')}`,
  ];
  fleet = await startFleet({ nodes: 2, serverFlags: own });
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  place[Symbol.dispose]();
});

const native = join(import.meta.dirname, '../../native/build/Release');
const env = () => ({ AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token, AEGIS_NATIVE_DIR: native });
const backups = (...args: string[]): Promise<Said> => cli.text(['backups', ...args], { env: env() });
const create = (name: string, ...more: string[]): Promise<Said> =>
  backups('configs', 'create', name, '--source', at('source'), '--to', `file://${at('target')}`, ...more);
const runs = async (...args: string[]): Promise<Run[]> =>
  (JSON.parse((await backups('runs', ...args, '--json')).stdout) as { runs: Run[] }).runs;
/** What differs from one time to another. */
const steady = (text: string): string =>
  text
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}/g, 'RUN')
    .replace(/\b[0-9a-f]{8}-[0-9a-f]{4}\b/g, 'RUN')
    .replace(/\d+(\.\d+)?s\b( ago)?|\bnow\b/g, 'T')
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d/g, 'TIME')
    .replace(/ +/g, ' ');

test('the first backup: made, run, listed, and back on its node from an encrypted archive', async () => {
  const recipient = (await backups('key', 'generate', '-o', at('backup.key'))).stdout.trim();
  expect(await create('notes', '--node', 'web-1', '--recipient', recipient, '--tag', 'first')).toMatchObject({
    code: 0,
    stderr: 'aegis: created. Try it: aegis backups run notes --node web-1 --follow\n',
  });
  const said = await backups('run', 'notes', '--node', 'web-1');
  expect({ ...said, stdout: steady(said.stdout).replace(/\d+ (Ki)?B T/, 'STORED T') }).toEqual({
    code: 0,
    stdout: 'NODE STATE FILES SIZE STORED TOOK RUN NOTE\nweb-1 completed 2 195 KiB STORED T RUN\n',
    stderr: '',
  });
  const list = await backups('list');
  expect(steady(list.stdout).replace(/\d+ (Ki)?B yes/, 'STORED yes')).toBe(
    'RUN CONFIG NODE MADE FILES SIZE STORED ENCRYPTED TAGS NOTE\nRUN notes web-1 TIME (T) 2 195 KiB STORED yes first\n',
  );
  const restore = ['restore', 'latest:notes@web-1', '--node', 'web-1', '-t', '/', '--overwrite', 'always'];
  expect(await backups(...restore)).toMatchObject({
    code: 1,
    stderr:
      "aegis: You do not trust the node web-1 yet, whose signature would vouch for this backup: compare its key and run 'aegis nodes trust web-1'.\n",
  });
  expect(await cli.text(['nodes', 'trust', 'web-1', '--accept-new'], { env: env() })).toMatchObject({ code: 0 });
  expect(await backups(...restore)).toMatchObject({
    code: 1,
    stderr:
      'aegis: This backup is encrypted: give the identity that opens it with --identity FILE. It is sealed to the node on its way.\n',
  });
  writeFileSync(at('source', 'a'), 'spoilt');
  rmSync(at('source', 'sub'), { recursive: true });
  const back = await backups(...restore, '--identity', at('backup.key'));
  expect({ ...back, stdout: steady(back.stdout) }).toEqual({
    code: 0,
    stdout: 'NODE STATE RESTORED SKIPPED DELETED SIZE NOTE\nweb-1 completed 4 0 0 195 KiB\n',
    stderr: '',
  });
  execFileSync('diff', ['-r', at('source'), at('before')]);
  const secret = /AGE-SECRET-KEY-\S+/.exec(readFileSync(at('backup.key'), 'utf8'))?.[0] ?? 'none';
  // Server, journals, logs and archives.
  const found = spawnSync('grep', ['-rlF', '-D', 'skip', '-e', secret, fleet.folder, at('target')], {
    encoding: 'utf8',
  });
  expect([found.status, found.stdout, found.stderr]).toEqual([1, '', '']);
});

test('here, without a token: run --once, restore --on-this-node, and a source that is not there', async () => {
  const dataDir = fleet.nodes[0]?.dataDir ?? '';
  const once = await cli.text(['backups', 'run', '--once', 'notes', '--data-dir', dataDir, '--json']);
  expect([once.code, once.stderr]).toEqual([0, '']);
  const last = JSON.parse(once.stdout.trimEnd().split('\n').at(-1) ?? '');
  expect(last).toMatchObject({ type: 'run', state: 'completed', totals: { files: 2 } });
  const restore = ['backups', 'restore', '--on-this-node', last.run_id, '-t', at('here'), '--data-dir', dataDir];
  expect(await cli.text([...restore, '--identity', at('backup.key')])).toMatchObject({ code: 0, stderr: '' });
  execFileSync('diff', ['-r', at('here', at('source')), at('before')]);
  expect(await cli.text(['backups', 'run', '--once', 'nothing', '--data-dir', dataDir])).toMatchObject({
    code: 1,
    stdout: '',
  });
  expect(await cli.text(['backups', 'run', '--once', 'notes', '--data-dir', at('nowhere')])).toEqual({
    code: 1,
    stdout: '',
    stderr: `aegis: No daemon answers on ${at('nowhere', 'control.sock')}: start it with 'aegis daemon start --data-dir ${at('nowhere')}'.\n`,
  });
  await create('partly', '--node', 'web-1', '--source', at('absent'));
  const partly = await backups('run', 'partly', '--node', 'web-1');
  expect(partly.code).toBe(3);
  expect(steady(partly.stdout)).toMatch(/\nweb-1 completed_with_errors 2 195 KiB .* RUN 1 not as they are\n$/);
  expect(partly.stderr).toContain(at('absent').slice(1));
});

test('from the folder alone, by the key that was pinned; what stock tools make of it is the same', async () => {
  const [run] = await runs('--config', 'notes');
  const folder = run?.destination ?? '';
  const verified = await cli.text(['backups', 'verify', '--from', folder, '-i', at('backup.key'), '--json']);
  expect([verified.code, JSON.parse(verified.stdout.trimEnd().split('\n').at(-1) ?? '')]).toMatchObject([
    0,
    { type: 'verify', ok: true, archive_verified: true, error_count: 0 },
  ]);
  mkdirSync(at('stock'));
  execFileSync('/bin/sh', [
    '-c',
    'age -d -i "$1" "$2"/archive.tar.zst.age | zstd -d | tar -x -C "$3"',
    'sh',
    at('backup.key'),
    folder,
    at('stock'),
  ]);
  execFileSync('diff', ['-r', at('stock', at('source')), at('before')]);
});

test('several nodes, as NDJSON; one that has no such configuration', async () => {
  await create('both', '--node', 'web-1', '--node', 'web-2');
  const said = await backups('run', 'both', '-n', 'web-1', '-n', 'web-2', '--follow', '--json');
  const lines = said.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect([said.code, said.stderr]).toEqual([0, '']);
  expect(lines[0]).toMatchObject({ type: 'submitted' });
  expect(lines.some(({ type, node }) => type === 'progress' && node === 'web-2')).toBe(true);
  expect(lines.at(-1)).toMatchObject({
    type: 'result',
    nodes: [
      { node: 'web-1', state: 'completed' },
      { node: 'web-2', state: 'completed' },
    ],
  });
  const one = await backups('run', 'notes', '-n', 'web-1', '-n', 'web-2');
  expect(one.code).toBe(1);
  expect(steady(one.stdout)).toMatch(/\nweb-1 completed .*\nweb-2 failed .+\n$/);
});

test('Ctrl-C cancels a run on its node', async () => {
  await create('slow', '--node', 'web-1', '--before', `touch ${at('begun')}; sleep 100`);
  const child = cli.start(['backups', 'run', 'slow', '--node', 'web-1', '--follow'], env());
  const end = ran(child);
  await waitFor('the hook to begin', () => existsSync(at('begun')));
  child.kill('SIGINT');
  const { code } = await end;
  expect(code).toBe(130);
  await waitFor('the run to have ended', async () => (await runs('--config', 'slow'))[0]?.state === 'cancelled');
});

test('cancel, log and watch', async () => {
  rmSync(at('begun'));
  const watching = cli.start(['backups', 'runs', '--config', 'slow', '--watch', '--json'], env());
  let seen = '';
  watching.stdout?.on('data', (piece: Buffer) => {
    seen += piece.toString('utf8');
  });
  const watched = ran(watching);
  const detached = await backups('run', 'slow', '--node', 'web-1', '--detach');
  expect(detached.stdout).toMatch(/^[0-9a-f-]{36}\n$/);
  await waitFor('the hook to begin', () => existsSync(at('begun')));
  const [run] = await runs('--state', 'running');
  expect(await backups('cancel', run?.run_id ?? '')).toEqual({
    code: 0,
    stdout: 'slow on web-1 is asked to end\n',
    stderr: '',
  });
  await waitFor(
    'the run to be seen as cancelled',
    () => seen.includes('"state":"cancelled","attempt":1') && seen.includes(run?.run_id ?? '?'),
  );
  await waitFor('the run to have ended', async () => (await runs('--config', 'slow'))[0]?.state === 'cancelled');
  watching.kill('SIGINT');
  expect((await watched).code).toBe(130);
  expect((await backups('log', run?.run_id ?? '')).code).toBe(0);
  expect((await cli.text(['nodes', 'logs', 'web-1', '--json'], { env: env() })).code).toBe(0);
});

test("the control server's own files, by the key that the fleet's root vouches for", async () => {
  expect(await create('own', '--mode', 'server')).toMatchObject({ code: 0 });
  const said = await backups('run', 'own');
  expect({ ...said, stdout: steady(said.stdout).replace(/\d+ (Ki)?B T/, 'STORED T') }).toEqual({
    code: 0,
    stdout: 'NODE STATE FILES SIZE STORED TOOK RUN NOTE\nserver completed 2 195 KiB STORED T RUN\n',
    stderr: '',
  });
  expect(await backups('run', 'notes')).toMatchObject({
    code: 1,
    stderr: "aegis: 'notes' is carried out by nodes. Start it there: 'aegis backups run notes --node NODE'.\n",
  });
  const [run] = await runs('--config', 'own');
  const restore = () => backups('restore', '--from', run?.destination ?? '', '-t', at('own'));
  expect((await restore()).code).toBe(1);
  expect((await cli.text(['nodes', 'trust', '--control-server', '--accept-new'], { env: env() })).code).toBe(0);
  expect(await restore()).toMatchObject({ code: 0, stderr: '' });
  execFileSync('diff', ['-r', at('own', at('source')), at('before')]);
});

test('retention says why; a configuration goes, its archives stay', async () => {
  await backups('configs', 'edit', 'notes', '--keep-last', '1');
  const dry = await backups('forget', 'notes', '--dry-run');
  expect(dry.code).toBe(0);
  expect(steady(dry.stdout)).toMatch(/\nweb-1 RUN TIME \(T\) completed keep last run\n/);
  const [newest] = await runs('--config', 'notes', '--state', 'completed');
  expect(await backups('configs', 'delete', 'notes', '--yes')).toEqual({
    code: 0,
    stdout: `notes is deleted; its archives stay in file://${at('target')}\n`,
    stderr: '',
  });
  expect(existsSync(join(newest?.destination ?? '', 'statement.json'))).toBe(true);
  expect(dirname(newest?.destination ?? '')).toContain(newest?.run_id ?? '?');
});
