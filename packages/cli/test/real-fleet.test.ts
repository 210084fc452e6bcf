import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { type Fleet, startFleet } from '../../../test/fleet/fleet.ts';
import { cliOfFile, ran } from './cli-process.ts';

/** The command line against the real server and real daemons. */

const cli = cliOfFile();
let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ nodes: 2 });
});
afterAll(() => fleet?.[Symbol.asyncDispose]());

const env = () => ({ AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token });
const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');
const numbers = (last: number) => Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('');

test('submit behaves as the command: both streams, standard input, exit code; logs shows the same again', async () => {
  const script = 'cat; echo to stderr >&2; exit 7';
  const run = await cli.run(['submit', '-t', 'web-1', '--stdin', '-', '--shell', script], {
    env: env(),
    stdin: 'a\0b\n',
  });
  expect({ ...run, stdout: String(run.stdout) }).toEqual({
    code: 7,
    signal: null,
    stdout: 'a\0b\n',
    stderr: 'to stderr\n',
  });
  const logs = await cli.run(['logs'], { env: env() });
  expect({ ...logs, stdout: String(logs.stdout) }).toEqual({
    code: 0,
    signal: null,
    stdout: 'a\0b\n',
    stderr: 'to stderr\n',
  });
});

test('a server that is killed and started again under a submit costs no byte and doubles none', async () => {
  const last = 60_000;
  const script = `i=1; while [ $i -le ${last} ]; do seq $i $((i + 1999)); i=$((i + 2000)); sleep 0.1; done`;
  const child = cli.start(['submit', '-t', 'web-1', '--output-limit-bytes', '0', '--shell', script], env());
  let received = 0;
  child.stdout?.on('data', (piece: Buffer) => {
    received += piece.length;
  });
  const result = ran(child);
  for (const after of [20_000, 90_000, 180_000]) {
    await waitFor(`${after} bytes to arrive`, () => received >= after || child.exitCode !== null);
    await fleet.server.kill9();
    await fleet.server.start();
  }
  const { code, stdout } = await result;
  expect({ code, bytes: stdout.length, sha256: sha256(stdout) }).toEqual({
    code: 0,
    bytes: numbers(last).length,
    sha256: sha256(numbers(last)),
  });
  const logs = await cli.run(['logs'], { env: env() });
  expect(sha256(logs.stdout)).toBe(sha256(numbers(last)));
});

test('Ctrl-C cancels on the node', async () => {
  const child = cli.start(['submit', '-t', 'web-1', '--shell', 'echo started; sleep 100'], env());
  child.stdout?.once('data', () => child.kill('SIGINT'));
  const { code, stdout } = await ran(child);
  expect({ code, stdout: String(stdout) }).toEqual({ code: 130, stdout: 'started\n' });
  const list = await cli.run(['commands', 'list', '--limit', '1', '--json'], { env: env() });
  expect(JSON.parse(String(list.stdout)).commands[0].state).toBe('cancelled');
});

test('logs -f without a command follows what comes', async () => {
  const child = cli.start(['logs', '-f'], env());
  let heard = '';
  let said = '';
  child.stdout?.on('data', (piece: Buffer) => {
    heard += piece.toString('utf8');
  });
  child.stderr?.on('data', (piece: Buffer) => {
    said += piece.toString('utf8');
  });
  await waitFor('it to follow', () => said.includes('Ctrl-C ends this'));
  await cli.run(['submit', '-t', 'web-2', '--', 'echo', 'hello'], { env: env() });
  await waitFor('the line to come', () => heard.includes('hello'));
  child.kill('SIGINT');
  await ran(child);
  expect(heard).toBe('web-2│hello\n');
});

test('nodes, labels, maintenance, retirement', async () => {
  const text = async (...args: string[]) => {
    const { code, stdout, stderr } = await cli.text(args, { env: env() });
    return `${code} ${stdout}${stderr}`;
  };
  expect(await text('nodes', 'label', 'web-2', 'env=test', 'rack=7')).toBe('0 env=test\nrack=7\n');
  expect(await text('nodes', 'label', 'web-2', 'rack-')).toBe('0 env=test\n');
  expect(await text('submit', '-t', 'label.env=test', '--', 'echo', 'found')).toBe('0 found\n');
  expect(await text('nodes', 'maintenance', 'web-2', 'on')).toBe('0 web-2 is maintenance\n');
  expect(await text('nodes', 'maintenance', 'web-2', 'off')).toMatch(/^0 web-2 is (online|degraded)\n$/);
  expect(await text('nodes', 'deactivate', 'web-2')).toBe('0 web-2 is deactivated\n');
  expect(await text('nodes', 'activate', 'web-2')).toBe('0 web-2 is active\n');
  expect(await text('nodes', 'register-agent', "David's MacBook", '--platform', 'darwin')).toMatch(
    /^0 aegis-agent-[A-Za-z0-9_-]{43}\n.*registered as the node Davids-MacBook\. The key is not shown again\.\n$/,
  );
  expect(await text('nodes', 'retire', 'web-2', '--yes')).toBe('0 web-2 is retired\n');
  expect(await text('submit', '-t', 'nobody', '--', 'true')).toBe(
    "2 aegis: No node named 'nobody'. See 'aegis nodes list'.\n",
  );
});

test('the daemon answers on its own socket', async () => {
  const dataDir = fleet.nodes[0]?.dataDir ?? '';
  const { code, stdout } = await cli.run(['daemon', 'status', '--data-dir', dataDir, '--json'], { env: env() });
  expect(code).toBe(0);
  expect(JSON.parse(String(stdout))).toMatchObject({ name: 'web-1', connected: true, draining: false });
});

test('a drain that runs out of time says so by its exit code', async () => {
  const dataDir = fleet.nodes[0]?.dataDir ?? '';
  const submitted = await cli.run(['submit', '-t', 'web-1', '--detach', '--', 'sleep', '30'], { env: env() });
  const id = String(submitted.stdout).trim();
  await waitFor('the command to run', async () => {
    const { stdout } = await cli.run(['commands', 'show', id, '--json'], { env: env() });
    return JSON.parse(String(stdout)).state === 'running';
  });
  const { code, stdout, stderr } = await cli.run([
    'daemon',
    'drain',
    '--timeout',
    '0',
    '--json',
    '--data-dir',
    dataDir,
  ]);
  expect({ code, stderr, drained: JSON.parse(String(stdout)).drained }).toEqual({
    code: 1,
    stderr: 'aegis: the time is over and not all has ended and been reported.\n',
    drained: false,
  });
});
