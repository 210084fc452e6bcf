import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { formatJoinToken } from '@aegis/protocol/access/join-token';
import { expect, test } from 'vitest';
import { controlDaemon, controlSocketPath } from '../src/control.ts';
import type { HttpDoor } from '../src/platform/http/door.ts';
import { nodeHttpDoor } from '../src/platform/http/door.ts';
import { startContractServer } from './contract-server.ts';
import { heldCommand } from './held-command.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

test('status and drain over the control socket; nonsense is refused', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start();
  expect((statSync(controlSocketPath(node.dataDir)).mode & 0o777).toString(8)).toBe('600');
  await waitFor('contact', () => daemon.status().connected);
  const status = await controlDaemon(node.dataDir, { op: 'status' });
  expect(status).toMatchObject({
    uid: daemon.uid,
    name: 'web-1',
    fleet: 'test',
    connected: true,
    running: 0,
    draining: false,
  });

  const socket = createConnection(controlSocketPath(node.dataDir));
  socket.write('{"op":"format"}\n');
  const [answer] = await once(socket, 'data');
  expect(JSON.parse(String(answer))).toMatchObject({ error: { code: 'http.malformed' } });
  socket.destroy();

  const held = heldCommand(node.dataDir, { after: 'echo x' });
  const running = server.submit({ cmd: held.cmd });
  await waitFor('it to run', () => running.state === 'running');
  const drained = controlDaemon(node.dataDir, { op: 'drain', timeout_sec: 60 });
  await waitFor('the drain', () => daemon.status().draining);
  held.go();
  expect(await drained).toMatchObject({ drained: true, draining: true, running: 0 });
  expect(running.state).toBe('succeeded');
  await daemon.close();
  await expect(controlDaemon(node.dataDir, { op: 'status' })).rejects.toMatchObject({ code: 'cli.unreachable' });
});

test('a node that drains takes cancels and leaves runs to the server, until the drain is undone', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start({ flags: { poll_wait_sec: 1 } });
  const running = server.submit({ cmd: 'sleep 600' });
  await waitFor('it to run', () => running.state === 'running');
  const drained = await controlDaemon(node.dataDir, { op: 'drain', timeout_sec: 0 });
  expect(drained).toMatchObject({ drained: false, draining: true, running: 1 });

  const later = server.submit({ cmd: 'echo later' });
  server.cancel(running);
  await waitFor('the cancel', () => running.state === 'cancelled', 20_000);
  expect([later.state, later.acknowledged]).toEqual(['queued', 0]);

  const waiting = controlDaemon(node.dataDir, { op: 'drain', timeout_sec: 60 });
  expect(await waiting).toMatchObject({ drained: true });
  expect(await controlDaemon(node.dataDir, { op: 'undrain' })).toMatchObject({ draining: false, uid: daemon.uid });
  await waitFor('what was left', () => later.state === 'succeeded', 20_000);
});

test('a second daemon on the same data directory does not start', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start();
  await expect(node.start()).rejects.toMatchObject({
    code: 'journal.failed',
    message: expect.stringContaining('Another daemon'),
  });
});

test('a token that the server no longer takes is renewed once and the work goes on', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start({ flags: { poll_wait_sec: 0 } });
  for (const one of server.nodes.values()) one.token = 'revoked';
  const command = server.submit({ cmd: 'echo still' });
  await waitFor('the end', () => command.state === 'succeeded');
  expect(server.requests.filter((key) => key === 'POST /agents/token')).toHaveLength(1);
});

test('facts that changed are told at the first contact, once', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await (await node.start()).close();
  const tokenFile = join(node.dataDir, 'token.json');
  const stored = JSON.parse(readFileSync(tokenFile, 'utf8')) as Record<string, string>;
  writeFileSync(tokenFile, JSON.stringify({ ...stored, told: 'by an older release' }));
  for (let start = 0; start < 2; start++) {
    const daemon = await node.start();
    const command = server.submit({ cmd: 'true' });
    await waitFor('the end', () => command.state === 'succeeded');
    await daemon.close();
  }
  expect(server.requests.filter((key) => key === 'POST /agents/token')).toHaveLength(1);
});

test('the launcher dies: another is started, commands go on', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start();
  const held = heldCommand(node.dataDir, { before: 'echo a', after: 'echo b' });
  const running = server.submit({ cmd: held.cmd });
  await waitFor('it to run', () => running.state === 'running');
  const pid = daemon.status().launcher_pid;
  process.kill(pid ?? 0, 'SIGKILL');
  await waitFor('another launcher', () => daemon.status().launcher_pid !== pid);
  const next = server.submit({ cmd: 'echo c' });
  held.go();
  await waitFor('both to end', () => running.state === 'succeeded' && next.state === 'succeeded');
  expect(server.output(running).toString()).toBe('a\nb\n');
});

test('a bad network: answers lost, requests doubled, the server away: every byte once', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const real = nodeHttpDoor();
  let count = 0;
  const bad: HttpDoor = async (request) => {
    count++;
    if (count % 7 === 0) throw new Error('refused');
    if (count % 5 === 0) await real(request); // doubled
    const answer = await real(request);
    if (count % 3 === 0) throw new Error('the answer was lost');
    return answer;
  };
  await node.start({ request: bad, random: () => 0 });
  const command = server.submit({ cmd: 'for i in $(seq 1 50); do seq $i 2000; done' });
  await waitFor('the end', () => command.state === 'succeeded', 60_000);
  const expected = Array.from({ length: 50 }, (_, i) =>
    Array.from({ length: 2000 - i }, (_, n) => `${n + i + 1}\n`).join(''),
  ).join('');
  expect(server.output(command).toString() === expected).toBe(true);
  real.close();
});

test('left-over folders are swept, others and links are not touched', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const first = await node.start();
  await first.close();
  const root = join(node.dataDir, 'executions');
  const stale = randomUUID();
  mkdirSync(join(root, stale), { mode: 0o700 });
  writeFileSync(join(root, stale, 'stdout.00000000000000000000'), 'x');
  mkdirSync(join(root, 'notes'));
  await node.start();
  expect(readdirSync(root)).toEqual(['notes']);
});

test('the process: ready line, readiness and watchdog for systemd, SIGTERM leaves commands running', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const notify = join(node.dataDir, 'notify.sock');
  const listener = spawn('python3', [
    '-uc',
    `import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(${JSON.stringify(notify)})\nprint("bound")\nwhile True: print(s.recv(4096).decode())`,
  ]);
  let heard = '';
  listener.stdout.on('data', (part) => {
    heard += part;
  });
  await waitFor('the socket', () => heard.includes('bound'));
  const script = `import { runDaemon } from ${JSON.stringify(new URL('../src/main.ts', import.meta.url).href)};
    process.exitCode = await runDaemon({ flags: ${JSON.stringify({ data_dir: node.dataDir, server: server.url, join_token: server.joinToken, name: 'web-1', poll_wait_sec: 5 })}, env: process.env, json: true });`;
  const startProcess = () =>
    spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      env: { ...process.env, NOTIFY_SOCKET: notify, WATCHDOG_USEC: '200000' },
    });
  const child = startProcess();
  let out = '';
  child.stdout.on('data', (part) => {
    out += part;
  });
  await waitFor('the ready line', () => out.endsWith('\n'));
  expect(JSON.parse(out)).toMatchObject({ ready: true, name: 'web-1', server: server.url });
  await waitFor('READY and WATCHDOG', () => heard.includes('READY=1') && heard.includes('WATCHDOG=1'));

  const marker = join(node.dataDir, 'marker');
  const held = heldCommand(node.dataDir, { after: `echo done | tee ${marker}` });
  const command = server.submit({ cmd: held.cmd });
  await waitFor('it to run', () => command.state === 'running');
  child.kill('SIGTERM');
  const [code] = await once(child, 'exit');
  expect(code).toBe(0);
  await waitFor('STOPPING', () => heard.includes('STOPPING=1'));
  held.go();
  await waitFor(
    'the command to end without a daemon',
    () => existsSync(marker) && readFileSync(marker, 'utf8') === 'done\n',
  );

  const second = startProcess();
  await waitFor('its report', () => command.state === 'succeeded');
  expect(server.output(command).toString()).toBe('done\n');
  second.kill('SIGKILL');
  await once(second, 'exit');
  listener.kill('SIGKILL');
  await once(listener, 'exit');
});

test('the exit code: 2 for what a restart cannot help, 1 for the rest, and no other', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const forged = formatJoinToken({ id: 'join1', secret: server.joinSecret, rootFingerprint: 'f'.repeat(64) });
  const wrongSecret = formatJoinToken({ id: 'join1', secret: 'A'.repeat(43), rootFingerprint: server.root.keyId });
  const start = { data_dir: node.dataDir, server: server.url, name: 'web-1' };
  const codeOf = async (flags: Record<string, unknown>): Promise<unknown> => {
    const script = `import { runDaemon } from ${JSON.stringify(new URL('../src/main.ts', import.meta.url).href)};
      process.exitCode = await runDaemon({ flags: ${JSON.stringify(flags)}, env: process.env, json: true });`;
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], { stdio: 'ignore' });
    return (await once(child, 'exit'))[0];
  };
  const refused = [{}, { join_token: 'aegis1.x' }, { join_token: forged }, { join_token: wrongSecret }];
  for (const more of refused) expect([more, await codeOf({ ...start, ...more })]).toEqual([more, 2]);
  await node.start();
  expect(await codeOf({ ...start, name: 'web-2' })).toBe(1); // another daemon holds the journal
});

test("the node's disk is full while a command writes: it is slowed, and every byte arrives", async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m,mode=700', 'tmpfs', node.dataDir]); // needs root: run the tests as root
  try {
    const daemon = await node.start({ flags: { segment_bytes: 262_144 } });
    const command = server.submit({ cmd: 'head -c 40000000 /dev/zero | tr "\\\\0" x; echo end >&2' });
    const second = server.submit({ cmd: 'echo beside' });
    await waitFor('both to end', () => command.state === 'succeeded' && second.state === 'succeeded', 60_000);
    expect(server.output(command).equals(Buffer.alloc(40_000_000, 'x'))).toBe(true);
    expect(server.output(command, 'stderr').toString()).toBe('end\n');
    expect(command.gaps).toEqual([]);
    daemon.prove();
    await daemon.close();
  } finally {
    await waitFor('the file system to be let go', () => spawnSync('umount', [node.dataDir]).status === 0);
  }
});
