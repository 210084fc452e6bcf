import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { apiOf } from '../fleet/api.ts';
import { aegis, cleanEnv, freePort, root } from '../fleet/fleet.ts';

/** The three curl calls of the oldest document, to the letter, against `aegis server start --dev`; and a poller in another language. */

let folder: string;
let url: string;
let server: ManagedProcess;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-seed-'));
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  server = managedProcess(
    'the server',
    [aegis, 'server', 'start', '--dev', '--listen', `127.0.0.1:${port}=all`, '--json'],
    join(folder, 'server.log'),
    cleanEnv(folder),
  );
  await server.start();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const curl = (...args: string[]): unknown =>
  JSON.parse(execFileSync('curl', ['-sS', '--fail-with-body', ...args], { encoding: 'utf8' }));

test('register, submit and push logs with curl', () => {
  const json = ['-H', 'Content-Type: application/json'];
  const registered = curl(
    '-X',
    'POST',
    `${url}/v1/agents/register`,
    ...json,
    '-d',
    '{"node_id":"node-1","attrs":{"os":"ubuntu"}}',
  ) as {
    node_id: string;
    token: string;
  };
  expect(registered).toEqual({ node_id: 'node-1', token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/) });
  const submission = `{
    "command_type":"RunCommand",
    "targets":["node-1"],
    "payload":{"cmd":"ls -la /tmp","timeout_sec":120}
  }`;
  const submitted = curl('-X', 'POST', `${url}/v1/commands/submit`, ...json, '-d', submission) as {
    command_id: string;
  };
  expect(submitted).toMatchObject({ command_id: expect.any(String), state: 'pending', targets: [{ name: 'node-1' }] });
  const logs = (JWT: string) =>
    curl(
      '-X',
      'POST',
      `${url}/v1/commands/logs`,
      '-H',
      `Authorization: Bearer ${JWT}`,
      ...json,
      '-d',
      `{"command_id":"${submitted.command_id}","chunks":[{"offset":0,"stream":"stdout","data":"line1\\n"}]}`,
    );
  expect(logs(registered.token)).toEqual({ next: { stdout: 6, stderr: 0 } });
  expect(logs(registered.token)).toEqual({ next: { stdout: 6, stderr: 0 } });
});

test('a poller in Python registers, polls, acknowledges, sends output twice and reports', async () => {
  const api = apiOf(url, () => null);
  const poller = spawn('python3', [join(root, 'test/poller/poller.py'), url, 'snake', '2'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: cleanEnv(folder),
  });
  const ended = new Promise<number | null>((resolve) => poller.once('exit', resolve));
  let said = '';
  poller.stdout.on('data', (bytes: Buffer) => {
    said += bytes.toString('utf8');
  });
  await waitFor('the poller to be registered', async () => {
    const { body } = await api.call('GET', '/agents?limit=1000');
    return (body as { agents: { name: string }[] }).agents.some(({ name }) => name === 'snake');
  });
  const submit = (cmd: string) =>
    api.submit({ command_type: 'RunCommand', targets: ['snake'], payload: { cmd, timeout_sec: 20 } });
  const good = await submit('seq 1 1000; printf "\\377" >&2');
  const bad = await submit('exit 7');
  expect((await good.finished())[0]).toMatchObject({
    state: 'succeeded',
    exit_code: 0,
    output_verified: true,
    report_signed: false,
  });
  expect((await bad.finished())[0]).toMatchObject({ state: 'failed', exit_code: 7 });
  const lines = Array.from({ length: 1000 }, (_, index) => `${index + 1}\n`).join('');
  expect(await good.stored('stdout')).toEqual({
    bytes: lines.length,
    sha256: createHash('sha256').update(lines).digest('hex'),
  });
  expect(await good.stored('stderr')).toEqual({
    bytes: 1,
    sha256: createHash('sha256')
      .update(Buffer.from([0xff]))
      .digest('hex'),
  });
  expect(await ended).toBe(0);
  const next = { stdout: lines.length, stderr: 1 };
  expect(
    said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
  ).toEqual([
    { next, again: next, exit_code: 0 },
    { next: { stdout: 0, stderr: 0 }, again: { stdout: 0, stderr: 0 }, exit_code: 7 },
  ]);
});
