import { createHash, randomUUID } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readStatus } from '@aegis/native/execution-folder';
import { signDirective } from '@aegis/protocol/access/directive';
import { expect, test } from 'vitest';
import type { StoredExecution } from './contract-executions.ts';
import { startContractServer } from './contract-server.ts';
import { heldCommand } from './held-command.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

const final = (execution: StoredExecution) =>
  waitFor(`a final report of ${execution.id}`, () => execution.reports.find((report) => report.state !== 'running'));
const sha256 = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex');

test('a command runs in a clean environment and its output and signed report arrive', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start();
  const one = server.submit({ cmd: 'env | sort; cat; echo oops >&2; exit 3', stdin: 'in\n', env: { MORE: 'x' } });
  const report = await final(one);
  expect(report).toMatchObject({
    state: 'failed',
    exit_code: 3,
    signal: null,
    attempt: 1,
    tree_empty: true,
    error: null,
  });
  const lines = server.output(one).toString().split('\n');
  expect(lines.filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line))).toEqual([
    `AEGIS_ATTEMPT=1`,
    `AEGIS_COMMAND_ID=${one.commandId}`,
    `AEGIS_EXECUTION_ID=${one.id}`,
    'AEGIS_NODE=web-1',
    'HOME=/root',
    'LANG=C.UTF-8',
    'LOGNAME=root',
    'MORE=x',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    expect.stringMatching(/^SHELL=/),
    'TERM=dumb',
    'USER=root',
    'in',
    '',
  ]);
  expect(server.output(one, 'stderr').toString()).toBe('oops\n');
  expect(report.output).toEqual({
    stdout: { bytes: server.output(one).length, sha256: sha256(server.output(one)) },
    stderr: { bytes: 5, sha256: sha256('oops\n') },
  });
  // Everything is freed once the server has it.
  await waitFor('the folder to go', () => readdirSync(join(node.dataDir, 'executions')).length === 0);
  expect(daemon.status()).toMatchObject({ queued: 0, running: 0, unreported: 0, connected: true });
});

test('large output of both streams is exact, also with invalid UTF-8', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start();
  const one = server.submit({ cmd: 'head -c 20000000 /dev/urandom | tee /dev/stderr' });
  const report = await final(one);
  expect(report.state).toBe('succeeded');
  expect(report.output?.stdout).toEqual({ bytes: 20_000_000, sha256: sha256(server.output(one)) });
  expect(report.output?.stderr).toEqual(report.output?.stdout);
  expect(sha256(server.output(one, 'stderr'))).toBe(report.output?.stderr.sha256);
  expect(one.gaps).toEqual([]);
});

test('above the output limit head and tail arrive and one gap says what is missing', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start({ flags: { spool_bytes: 262_144, segment_bytes: 16_384 } });
  const one = server.submit({ cmd: 'seq 1 1000000' }, {}, { output_limit_bytes: 100_000 });
  const report = await final(one);
  const whole = Array.from({ length: 1_000_000 }, (_, n) => `${n + 1}\n`).join('');
  expect(report.output?.stdout).toEqual({ bytes: whole.length, sha256: sha256(whole) });
  expect(one.gaps).toEqual([{ stream: 'stdout', offset: 50_000, gap: whole.length - 100_000, reason: 'output_limit' }]);
  expect(server.output(one).toString()).toBe(whole.slice(0, 50_000) + whole.slice(-50_000));
});

test('live output arrives while the command still runs, and a cancel ends it', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start();
  const one = server.submit({ cmd: 'echo first; sleep 300' });
  await waitFor('live output', () => server.output(one).toString() === 'first\n');
  await waitFor('the running report', () => one.state === 'running');
  server.cancel(one);
  expect(await final(one)).toMatchObject({ state: 'cancelled', tree_empty: true });
});

test('a cancel that comes first leaves a tombstone, one that finds it queued ends it there', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start({ flags: { max_concurrent: 1 } });
  const directive = server.runDirective({ cmd: 'echo never' });
  const early = server.know(directive.id);
  server.cancel(early);
  await waitFor('the cancel to be acknowledged', () => early.acknowledged > 0);
  server.offer({
    kind: 'command.run',
    command_id: directive.id,
    execution_id: early.id,
    attempt: 1,
    directive: signDirective(directive, server.serverKey),
  });
  expect(await final(early)).toMatchObject({ state: 'cancelled', started_at: null });

  const busy = server.submit({ cmd: 'sleep 300' });
  await waitFor('the first to run', () => busy.state === 'running');
  const queued = server.submit({ cmd: 'echo never' });
  await waitFor('the second to be accepted', () => queued.state === 'delivered');
  server.cancel(queued);
  expect(await final(queued)).toMatchObject({ state: 'cancelled', started_at: null });
  server.cancel(busy);
  await final(busy);
});

test('a daemon that comes back follows what runs, and reports what ended meanwhile', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const first = await node.start();
  const running = server.submit({ cmd: 'for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done' });
  await waitFor('live output', () => server.output(running).length > 0);
  const held = heldCommand(node.dataDir, { after: 'echo done' });
  const quick = server.submit({ cmd: held.cmd });
  await waitFor('it to run', () => quick.state === 'running');
  await first.close();
  held.go();
  await waitFor('it to end without a daemon', () => readStatus(join(node.dataDir, 'executions', quick.id)) !== null);
  await node.start();
  expect(await final(quick)).toMatchObject({ state: 'succeeded' });
  expect(await final(running)).toMatchObject({ state: 'succeeded' });
  expect(server.output(running).toString()).toBe('1\n2\n3\n4\n5\n6\n');
  expect(server.output(quick).toString()).toBe('done\n');
});

test('a reboot in between makes what ran lost, and what had not started starts', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const bootId = randomUUID();
  const first = await node.start({ flags: { max_concurrent: 1 }, bootId });
  const ran = server.submit({ cmd: 'echo before; kill -9 $PPID; sleep 300' }); // takes its own supervisor along, as a power cut would
  const waits = server.submit({ cmd: 'echo after' });
  await waitFor('output', () => server.output(ran).length > 0 || ran.reports.length > 0);
  await waitFor('both to be accepted', () => ran.acknowledged > 0 && waits.acknowledged > 0);
  await first.close();
  await node.start({ bootId: randomUUID() });
  const report = await final(ran);
  expect(report).toMatchObject({ state: 'lost', error: { code: 'commands.lost' } });
  expect(await final(waits)).toMatchObject({ state: 'succeeded' });
  expect(server.output(waits).toString()).toBe('after\n');
});

test('the same offer again and again starts one process', async () => {
  await using server = await startContractServer({
    lies: { loseAnswers: { 'POST /v1/commands/ack': 2, 'POST /v1/commands/status': 2 } },
  });
  await using node = testNode(server);
  await node.start();
  const file = join(node.dataDir, 'count');
  const directive = server.runDirective({ cmd: `echo x >> ${file}; wc -l < ${file}` });
  const one = server.know(directive.id);
  const offer = {
    kind: 'command.run' as const,
    command_id: directive.id,
    execution_id: one.id,
    attempt: 1,
    directive: signDirective(directive, server.serverKey),
  };
  server.offer(offer);
  server.offer(offer);
  await final(one);
  const before = one.acknowledged;
  server.offer(offer);
  await waitFor('another acknowledgement', () => one.acknowledged > before);
  expect(server.output(one).toString()).toBe('1\n');
});

test('a server that forgot an execution is told again how it ended; one that forgot all of it gets peace', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start();
  const directive = server.runDirective({ cmd: 'echo once' });
  const one = server.know(directive.id);
  const offer = {
    kind: 'command.run' as const,
    command_id: directive.id,
    execution_id: one.id,
    attempt: 1,
    directive: signDirective(directive, server.serverKey),
  };
  server.offer(offer);
  const report = await final(one);
  await waitFor('it to be freed', () => readdirSync(join(node.dataDir, 'executions')).length === 0);
  const restored = server.know(directive.id, 1, one.id); // an older backup: queued, no output
  server.offer(offer);
  expect(await final(restored)).toEqual(report);
  expect(restored.gaps).toEqual([{ stream: 'stdout', offset: 0, gap: 5, reason: 'freed_after_ack' }]);

  const unknown = server.submit({ cmd: 'echo gone; sleep 0.3; seq 1 100000' });
  server.executions.delete(unknown.id);
  await waitFor('the report to be dropped', () => {
    const { running, queued, unreported } = daemon.status();
    return running + queued + unreported === 0 && server.requests.filter((key) => key.endsWith('/status')).length > 1;
  });
});

test('many commands at once', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start({ flags: { max_concurrent: 16 } });
  const all = Array.from({ length: 300 }, (_, n) => server.submit({ argv: ['echo', String(n)] }));
  for (const [n, one] of all.entries()) {
    expect(await final(one)).toMatchObject({ state: 'succeeded' });
    expect(server.output(one).toString()).toBe(`${n}\n`);
    expect(one.reports.filter((report) => report.state === 'succeeded')).toHaveLength(1);
  }
});
