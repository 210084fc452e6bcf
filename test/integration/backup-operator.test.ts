import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Run } from '@aegis/protocol/backups/run';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';

/** What an operator does with backups beside making and restoring them, by the real CLI, server and daemons, into folders of the nodes:
 *  configurations as files, hooks, schedules that were missed, choices of a restore on a node, tags that keep runs, agents without a daemon. */

let fleet: Fleet;
const at = (...names: string[]): string => join(fleet.folder, ...names);
beforeAll(async () => {
  fleet = await startFleet({ nodes: 2, direct: true });
  mkdirSync(at('source', 'sub'), { recursive: true });
  mkdirSync(at('target'));
  for (const name of ['a', 'b', 'sub/c']) writeFileSync(at('source', name), `first ${name}\n`);
  for (const name of ['web-1', 'web-2']) ok('nodes', 'trust', name, '--accept-new');
});
afterAll(() => fleet?.[Symbol.asyncDispose]());

const run = (...args: string[]) => {
  const env = cleanEnv(fleet.folder, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token });
  const { status, stdout, stderr } = spawnSync(aegis, args, { env, encoding: 'utf8', timeout: 60_000 });
  return { status, stdout, stderr };
};
const ok = (...args: string[]): string => {
  const { status, stdout, stderr } = run(...args);
  if (status !== 0) throw new Error(`aegis ${args.join(' ')}: ${status}\n${stdout}${stderr}`);
  return stdout;
};
const configs = (...args: string[]) => run('backups', 'configs', ...args);
const create = (name: string, ...more: string[]): string =>
  ok('backups', 'configs', 'create', name, '--source', at('source'), '--to', `file://${at('target')}`, ...more);
const runsOf = (config: string): Run[] =>
  (JSON.parse(ok('backups', 'runs', '--config', config, '--json')) as { runs: Run[] }).runs;
/** A run on request, once the server has heard of its end. */
const backUp = async (config: string): Promise<Run> => {
  const before = runsOf(config)[0]?.run_id;
  ok('backups', 'run', config, '--node', 'web-1');
  let newest: Run | undefined;
  await waitFor(`the end of ${config}`, () => {
    [newest] = runsOf(config);
    return newest !== undefined && newest.run_id !== before && newest.state !== 'running';
  });
  if (!newest) throw new Error(`no run of ${config}`);
  return newest;
};
const taken = (config: string): Promise<void> =>
  waitFor(`the nodes to have ${config}`, async () => {
    const { body } = await fleet.api.call('GET', `/api/v1/backups/configs/${config}/nodes`);
    return (body as { items: { taken: boolean }[] }).items.every((one) => one.taken);
  });

test('configurations as files: applied, compared, changed, assigned, taken back unchanged', () => {
  const file = at('notes.toml');
  const text = `name = "notes"
sources = ["${at('source')}"]
nodes = ["web-1"]
tags = ["nightly"]
[destination]
kind = "file"
path = "${at('target')}"
[schedule]
cron = "30 2 * * *"
timezone = "Europe/Berlin"
`;
  writeFileSync(file, text);
  expect(configs('apply', '--dry-run', file)).toMatchObject({ status: 3, stderr: '' });
  expect(configs('show', 'notes').status).toBe(1); // nothing was stored
  expect(configs('apply', file)).toMatchObject({ status: 0, stderr: '' });
  expect(configs('diff', file)).toMatchObject({ status: 0 });

  writeFileSync(file, text.replace('"30 2', '"45 3').replace('tags = ["nightly"]\n', ''));
  const differs = configs('diff', file);
  expect(differs).toMatchObject({ status: 3, stderr: '' });
  const lines = differs.stdout.split('\n').map((line) => line.trim());
  expect(lines.filter((line) => /^[-+~] /.test(line))).toEqual([
    expect.stringMatching(/^~ schedule\.cron.*30 2 \* \* \*.*45 3 \* \* \*/),
    expect.stringMatching(/^[-~] tags.*nightly/),
  ]);
  expect(configs('apply', '--dry-run', file)).toEqual(differs);
  expect(configs('apply', file)).toMatchObject({ status: 0, stderr: '' });
  expect(configs('diff', file)).toMatchObject({ status: 0 });

  ok('backups', 'configs', 'assign', 'notes', 'web-2');
  expect(configs('diff', file).status).toBe(3);
  ok('backups', 'configs', 'unassign', 'notes', 'web-2');
  ok('backups', 'configs', 'edit', 'notes', '--description', 'by hand');
  writeFileSync(file, ok('backups', 'configs', 'show', 'notes', '--toml'));
  expect(readFileSync(file, 'utf8')).toContain('by hand');
  expect(configs('diff', file)).toMatchObject({ status: 0 });
  expect(ok('backups', 'configs', 'list')).toMatch(/^notes +/m);

  // What one file says wrongly changes nothing of the others.
  writeFileSync(at('bad.toml'), text.replace('cron', 'corn').replace('"notes"', '"other"'));
  writeFileSync(file, text);
  expect(configs('apply', file, at('bad.toml'))).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('bad.toml'),
  });
  expect(configs('diff', file).status).toBe(3);
  ok('backups', 'configs', 'delete', 'notes', '--yes');
});

test('hooks frame a run; one that fails stops it, one that hangs is ended', async () => {
  writeFileSync(
    at('hook'),
    `#!/bin/sh\necho "$1 $AEGIS_STATE $AEGIS_REASON" >>${at('hooked')}\n[ ! -e ${at('fail')} ] || [ "$1" != before ] || exit 7\n[ ! -e ${at('hang')} ] || [ "$1" != before ] || sleep 600\n`,
    { mode: 0o755 },
  );
  const hook = (when: string) => ({ argv: [at('hook'), when], timeout_sec: 2 });
  const spec = {
    name: 'hooked',
    sources: [at('source')],
    destination: { kind: 'file', path: at('target') },
    nodes: ['web-1'],
    retries: { max: 0 },
    hooks: { before: [hook('before')], after: [hook('after')], on_failure: [hook('on_failure')] },
  };
  writeFileSync(at('hooked.json'), JSON.stringify(spec));
  ok('backups', 'configs', 'apply', at('hooked.json'));
  const heard = () => readFileSync(at('hooked'), 'utf8').split('\n').filter(Boolean);
  expect((await backUp('hooked')).state).toBe('completed');
  expect(heard()).toEqual([expect.stringMatching(/^before /), 'after completed ']);
  for (const trouble of ['fail', 'hang']) {
    writeFileSync(at(trouble), '');
    rmSync(at('hooked'));
    expect(run('backups', 'run', 'hooked', '--node', 'web-1').status).toBe(1);
    await waitFor('its end', () => runsOf('hooked')[0]?.state === 'failed');
    expect(runsOf('hooked')[0]?.reason).toMatchObject({ code: 'backups.hook_failed' });
    expect(heard()).toEqual([expect.stringMatching(/^before /), 'on_failure failed backups.hook_failed']);
    rmSync(at(trouble));
  }
});

test('what was missed while the node slept runs once when it is awake', async () => {
  const [node] = fleet.nodes;
  const now = new Date();
  const cron = `${now.getUTCMinutes()} ${(now.getUTCHours() + 12) % 24} * * *`;
  for (const [name, ...more] of [['daily'], ['strict', '--no-catch-up']] as const)
    create(name, '--node', 'web-1', '--schedule', cron, ...more);
  for (const name of ['daily', 'strict']) await taken(name);
  await node?.daemon.stop();
  // As it stands on a node that was switched off a week ago.
  const journal = new Database(join(node?.dataDir ?? '', 'journal.db'));
  journal.prepare('UPDATE desired_backups SET scheduled_until_ms = scheduled_until_ms - 604800000').run();
  journal.close();
  await node?.daemon.start();
  await waitFor('the run that was missed', () => runsOf('daily')[0]?.state === 'completed');
  expect(runsOf('daily').map(({ trigger }) => trigger)).toEqual(['missed']);
  expect(runsOf('strict')).toEqual([]);
}, 120_000);

test('a restore on a node: some paths, what is newer, what would happen, and nothing else left', async () => {
  create('choices', '--node', 'web-1');
  const { run_id } = await backUp('choices');
  const there = (...names: string[]) => at('there', at('source').slice(1), ...names);
  const restore = (...more: string[]) =>
    run('backups', 'restore', run_id, '--node', 'web-1', '--target', at('there'), ...more);
  mkdirSync(at('there'));
  expect(restore('--dry-run')).toMatchObject({ status: 0, stderr: '' });
  expect(readdirSync(at('there'))).toEqual([]);
  expect(restore('--path', '**/sub')).toMatchObject({ status: 0, stderr: '' });
  expect([existsSync(there('sub', 'c')), existsSync(there('a'))]).toEqual([true, false]);
  expect(restore()).toMatchObject({ status: 0, stderr: '' });
  execFileSync('diff', ['-r', at('source'), there()]);

  for (const name of ['a', 'b']) writeFileSync(there(name), 'by hand');
  utimesSync(there('a'), 1000, 1000);
  writeFileSync(there('more'), 'by hand');
  expect(restore()).toMatchObject({ status: 0 });
  expect(readFileSync(there('a'), 'utf8')).toBe('by hand');
  expect(restore('--overwrite', 'if-newer')).toMatchObject({ status: 0 });
  expect([readFileSync(there('a'), 'utf8'), readFileSync(there('b'), 'utf8')]).toEqual(['first a\n', 'by hand']);
  expect(restore('--overwrite', 'always', '--delete')).toMatchObject({ status: 0 });
  execFileSync('diff', ['-r', at('source'), there()]);
});

test('runs with a tag stay as long as the rule says', async () => {
  create('tagged', '--node', 'web-1', '--tag', 'release');
  const kept = await backUp('tagged');
  ok('backups', 'configs', 'edit', 'tagged', '--tag', 'daily', '--keep-last', '1', '--keep-tag', 'release');
  await taken('tagged');
  const [second, third] = [await backUp('tagged'), await backUp('tagged')];
  await waitFor('the second to go', () => !runsOf('tagged').some(({ run_id }) => run_id === second.run_id));
  const { decisions } = JSON.parse(ok('backups', 'forget', 'tagged', '--dry-run', '--json')) as {
    decisions: { run_id: string; keep: boolean; reasons: string[] }[];
  };
  const reasonsOf = ({ run_id }: Run) => decisions.find((one) => one.run_id === run_id)?.reasons;
  expect([reasonsOf(kept), reasonsOf(third)]).toEqual([['has tags [release]'], ['last run']]);
  const folders = (one: Run) => existsSync(join(one.destination.replace(/^file:\/\//, ''), 'statement.json'));
  expect([kept, second, third].map(folders)).toEqual([true, true, true]);
  await backUp('tagged'); // with the end of which the node hears of it
  await waitFor('its folder to go', () => !folders(second));
  expect(folders(kept)).toBe(true);
});

test('an agent without a daemon: registered, seen, heard, shut out and let in, and gone', async () => {
  const registered = run('nodes', 'register-agent', "David's MacBook", '--platform', 'darwin');
  const key = registered.stdout.trim();
  const call = async (path: string, body: unknown) => {
    const headers = { 'content-type': 'application/json', 'X-Agent-API-Key': key };
    const answer = await fetch(`${fleet.url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
    return [answer.status, ((await answer.json()) as { success: boolean }).success];
  };
  const beat = () => call('/api/agent/heartbeat', { version: '0.1.0', platform: 'darwin' });
  const shown = () =>
    ok('nodes', 'list')
      .split('\n')
      .find((line) => line.startsWith('Davids-MacBook')) ?? '';
  expect(shown()).toMatch(/ offline /);
  expect(await beat()).toEqual([200, true]);
  expect(shown()).toMatch(/ online /);
  const message = 'Scanning directory /Users/davidsells/backup';
  expect(await call('/api/agent/log', { level: 'info', message, metadata: { filesFound: 150 } })).toEqual([200, true]);
  expect(await call('/api/agent/log', { level: 'error', message: 'It hurts', metadata: {} })).toEqual([200, true]);
  expect(ok('nodes', 'logs', 'Davids-MacBook')).toMatch(/info +Scanning directory .*\n.*error +It hurts/);
  expect(ok('nodes', 'logs', 'Davids-MacBook', '--level', 'warning')).not.toContain('Scanning');
  expect(await call('/api/agent/heartbeat', { status: 'error' })).toEqual([200, true]);
  expect(shown()).toMatch(/ error /);

  ok('nodes', 'deactivate', 'Davids-MacBook');
  expect(await beat()).toEqual([403, false]);
  ok('nodes', 'activate', 'Davids-MacBook');
  expect(await beat()).toEqual([200, true]);
  ok('nodes', 'retire', 'Davids-MacBook', '--yes');
  expect(await beat()).toEqual([403, false]);
});
