import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VERSION } from '@aegis/protocol/version';
import { expect, test } from 'vitest';
import { COMMANDS, wordsOf } from '../src/command-table.ts';
import { loadCommand } from '../src/oclif.ts';
import { cliOfFile, ran } from './cli-process.ts';

const cli = cliOfFile();

const text = (args: readonly string[], env = {}) => cli.text(args, { env });

test.each([['--version'], ['-v'], ['version']])('%s', async (word) => {
  const stdout = `aegis/${VERSION} ${process.platform}-${process.arch} node-${process.version}\n`;
  expect(await text([word])).toEqual({ code: 0, stdout, stderr: '' });
});

test('version --json', async () => {
  const { stdout } = await text(['version', '--json']);
  expect(JSON.parse(stdout)).toEqual({
    version: VERSION,
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
  });
});

test.each([[[]], [['--help']], [['help']], [['-h']]])('the manual: aegis %j', async (args) => {
  const { code, stdout, stderr } = await text(args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatchSnapshot('manual');
});

test.each(Object.keys(COMMANDS).map(wordsOf))('%s --help', async (words) => {
  const { code, stdout, stderr } = await text([...words.split(' '), '--help']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatchSnapshot();
  expect(stdout.split('\n').filter((line) => line.length > 80 && !line.includes('$ '))).toEqual([]);
});

test.each(Object.keys(COMMANDS))('%s has a summary, a description and two examples', async (id) => {
  const { summary, description, examples } = await loadCommand(id);
  expect(summary).toMatch(/^[A-Z][^.]+$/);
  expect(description).toMatch(/\.$/);
  expect(examples?.length).toBeGreaterThanOrEqual(2);
  for (const example of examples ?? []) expect(JSON.stringify(example)).toContain('aegis ');
});

test('a topic alone explains itself', async () => {
  expect(await text(['server', 'token', '--help'])).toMatchObject({ code: 0 });
  expect((await text(['nodes'])).stdout).toMatchSnapshot();
});

test.each([
  [['nods', 'list'], "There is no command 'nods list'. Did you mean 'nodes list'? See 'aegis --help'."],
  [['nodes', 'lits'], "There is no command 'nodes lits'. Did you mean 'nodes list'? See 'aegis --help'."],
  [['frobnicate'], "There is no command 'frobnicate'. See 'aegis --help'."],
  [['--version', '--frob'], "'aegis --version' takes --json and nothing else. See 'aegis --help'."],
  [['version', 'x'], "'aegis version' takes --json and nothing else. See 'aegis --help'."],
  [['--frob'], "There is no option '--frob' here. See 'aegis --help'."],
  [['nodes', 'list', '--frob'], 'Nonexistent flag: --frob. See --help.'],
  [['nodes', 'show'], 'Missing 1 required arg: node Name or uid of the node. See --help.'],
  [['backups', 'configs', 'create'], "Missing 1 required arg: name The new configuration's name. See --help."],
  [['nodes', 'retire', 'web-1'], 'Without a terminal nobody can be asked: add --yes if it is meant.'],
])('%j', async (args, sentence) => {
  expect(await text(args)).toEqual({ code: 2, stdout: '', stderr: `aegis: ${sentence}\n` });
});

test('completion scripts: the shell itself accepts them, and bash completes', async () => {
  const folder = mkdtempSync(join(cli.home, 'completion-'));
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { code, stdout } = await text(['completion', shell]);
    expect(code).toBe(0);
    expect(stdout).toMatchSnapshot(shell);
    writeFileSync(join(folder, shell), stdout);
  }
  execFileSync('bash', ['-n', join(folder, 'bash')]);
  const complete = (line: string): string[] => {
    const words = line.split(' ');
    const script = `source ${join(folder, 'bash')}; COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _aegis; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).split('\n').filter(Boolean).sort();
  };
  expect(complete('aegis no')).toEqual(['nodes']);
  const OF_NODES = 'activate deactivate label list logs maintenance register-agent retire show sign trust';
  expect(complete('aegis nodes ')).toEqual(OF_NODES.split(' '));
  expect(complete('aegis server token ')).toEqual(['list', 'revoke']);
  expect(complete('aegis submit --pri')).toEqual(['--priority']);
  expect(complete('aegis submit --priority h')).toEqual(['high']);
  expect(complete('aegis completion z')).toEqual(['zsh']);
  expect(complete('aegis submit -t a -- --pri')).toEqual([]);
});

test('the compile cache is ours alone, and a folder that others can write to is not used', async () => {
  await text(['nodes', 'list', '--help']);
  const folder = join(cli.home, '.cache/aegis/compile-cache');
  expect(statSync(folder).mode & 0o777).toBe(0o700);
  expect(readdirSync(folder).length).toBeGreaterThan(0);
  const open = mkdtempSync(join(tmpdir(), 'aegis-open-'));
  execFileSync('mkdir', ['-p', '-m', '777', join(open, 'aegis/compile-cache')]);
  execFileSync('chmod', ['777', join(open, 'aegis/compile-cache')]);
  expect((await text(['nodes', '--help'], { XDG_CACHE_HOME: open })).code).toBe(0);
  expect(readdirSync(join(open, 'aegis/compile-cache'))).toEqual([]);
  execFileSync('rm', ['-r', open]);
});

test('a HOME in which nothing can be made costs the cache alone, and one that is not there is not made', async () => {
  const missing = join(cli.home, 'nobody');
  for (const home of ['/proc', missing]) {
    const child = cli.start(['nodes', '--help'], { HOME: home });
    const late = setTimeout(() => child.kill('SIGKILL'), 15_000);
    const { code, signal } = await ran(child);
    clearTimeout(late);
    expect([home, code, signal]).toEqual([home, 0, null]);
    const set = cli.start(['context', 'set', 'a', '--server', 'http://a'], { HOME: home });
    const lateToo = setTimeout(() => set.kill('SIGKILL'), 15_000);
    expect(await ran(set)).toMatchObject({
      code: 2,
      signal: null,
      stderr: `aegis: ${home}/.config cannot be made (ENOENT). Set HOME or XDG_CONFIG_HOME to a folder of yours.\n`,
    });
    clearTimeout(lateToo);
  }
  expect(existsSync(missing)).toBe(false);
});

test('the bundle of the live view loads', async () => {
  const view: unknown = await import(join(cli.dist, 'live-view.mjs'));
  expect(view).toMatchObject({ showLiveView: expect.any(Function) });
});

test('bin/aegis works through a symbolic link, from anywhere', () => {
  const launcher = join(import.meta.dirname, '../../../bin/aegis');
  const link = join(cli.home, 'aegis');
  symlinkSync(launcher, link);
  const there = execFileSync(link, ['--version'], { encoding: 'utf8', cwd: '/' });
  expect(there).toBe(execFileSync(launcher, ['--version'], { encoding: 'utf8' }));
});
