import { openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { cancelCommand, listCommands, readLogs } from '@aegis/protocol/commands/endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import {
  ack,
  commandOf,
  executionsOf,
  finish,
  onlyExecution,
  poll,
  put,
  queueDrift,
  refusal,
  report,
  STORAGES,
  submit,
  submitTo,
  until,
} from './commands-support.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

const cancel = (server: TestServer, id: string, node?: string) =>
  server.as('operator').call(cancelCommand, { params: { id }, body: node === undefined ? {} : { node } });
const DAY_MS = 24 * 3_600_000;

describe.each(STORAGES)('%s', (storage) => {
  test('what was never offered is cancelled at once; twice is a conflict', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const { commandId } = await submitTo(server, 'n');
    expect(await cancel(server, commandId)).toMatchObject({ state: 'cancelled', result: { cancelled: 1 } });
    expect(await onlyExecution(server, commandId)).toMatchObject({ state: 'cancelled', presumed: false });
    expect((await poll(node)).commands).toEqual([]);
    expect(await refusal(cancel(server, commandId))).toEqual([409, 'commands.not_cancellable']);
    expect(await refusal(cancel(server, commandId, 'nobody'))).toEqual([404, 'commands.unknown_execution']);
    expect(await refusal(cancel(server, '01890000-0000-7000-8000-000000000000'))).toEqual([
      404,
      'commands.unknown_command',
    ]);
    expect(await queueDrift(server)).toEqual([]);
  });

  test('what was offered is presumed cancelled, and the node is told until it acknowledges', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n');
    await poll(node);
    await ack(node, ids.executionId);
    await report(node, { command_id: ids.commandId, execution_id: ids.executionId, state: 'running' });
    const waiting = poll(node, { wait: 30 });
    await until('it waits', () => server.running.commands.dispatch.waiting() === 1);
    await cancel(server, ids.commandId);
    expect(await onlyExecution(server, ids.commandId)).toMatchObject({ state: 'cancelled', presumed: true });
    const [told] = (await waiting).commands;
    expect(told).toMatchObject({ kind: 'command.cancel', command_id: ids.commandId, execution_id: ids.executionId });
    if (!told) throw new Error('nothing was offered');
    const { payload } = openEnvelope(told.directive, PAYLOAD_TYPES.directive, new Map());
    expect(JSON.parse(payload.toString())).toMatchObject({
      kind: 'command.cancel',
      body: { command_id: ids.commandId },
      targets: { node_keys: [node.keys.keyId] },
    });
    expect((await poll(node)).commands).toEqual([]);
    clock.advance(5000);
    expect((await poll(node)).commands).toEqual([told]);
    await ack(node, ids.executionId);
    clock.advance(5000);
    expect((await poll(node)).commands).toEqual([]);
    expect((await poll(node, { resume: 'true' })).commands).toEqual([told]);
    await finish(node, ids, { state: 'cancelled', exit_code: null, signal: 'SIGTERM' });
    expect(await onlyExecution(server, ids.commandId)).toMatchObject({ state: 'cancelled', presumed: false });
    expect((await poll(node, { resume: 'true' })).commands).toEqual([]);
  });

  test('an acknowledgement that is still of the command itself does not silence the cancel', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n');
    await poll(node);
    await cancel(server, ids.commandId);
    const kinds = async () => (await poll(node)).commands.map(({ kind }) => kind);
    expect(await kinds()).toEqual(['command.cancel']); // and its answer is lost
    await ack(node, ids.executionId);
    clock.advance(5000);
    expect(await kinds()).toEqual(['command.cancel']);
    await ack(node, ids.executionId);
    clock.advance(5000);
    expect(await kinds()).toEqual([]);
    // It had ended before the cancel came: that is what counts.
    await finish(node, ids);
    expect(await commandOf(server, ids.commandId)).toMatchObject({ state: 'succeeded' });
  });

  test('one node of several; a retry that is to come; no retry after a cancel', async () => {
    await using server = await startTestServer({ storage });
    const [a, b] = [await server.enrol('a'), await server.enrol('b')];
    const answer = await submit(server, {
      targets: ['a', 'b'],
      max_retries: 3,
      retry_backoff_sec: 3600,
      ttl_sec: 7200,
    });
    const commandId = answer.command_id ?? '';
    const [ofA = '', ofB = ''] = answer.targets.map(({ execution_id }) => execution_id ?? '');
    expect(await cancel(server, commandId, a.uid)).toMatchObject({
      state: 'running',
      result: { cancelled: 1, queued: 1 },
    });
    await poll(b);
    await finish(b, { commandId, executionId: ofB }, { state: 'failed', exit_code: 1 });
    expect(await commandOf(server, commandId)).toMatchObject({ result: { cancelled: 1, queued: 1 }, retry_count: 1 });
    expect(await cancel(server, commandId)).toMatchObject({ state: 'cancelled', result: { cancelled: 2 } });
    expect((await executionsOf(server, commandId)).map(({ node, attempt, state }) => [node, attempt, state])).toEqual(
      [
        ['a', 1, 'cancelled'],
        ['b', 1, 'failed'],
        ['b', 2, 'cancelled'],
      ].sort(([x], [y]) =>
        ([a, b].find((n) => n.name === x)?.uid ?? '') < ([a, b].find((n) => n.name === y)?.uid ?? '') ? -1 : 1,
      ),
    );
    expect(ofA).not.toBe('');
    const late = await submitTo(server, 'a', { max_retries: 3 });
    await poll(a);
    await cancel(server, late.commandId);
    await finish(a, late, { state: 'failed', exit_code: 1 });
    expect(await commandOf(server, late.commandId)).toMatchObject({ state: 'failed', retry_count: 0 });
  });

  test('a retired node: what waits is cancelled, what it holds is presumed lost, in the same transaction', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const held = await submitTo(server, 'n');
    await poll(node);
    await ack(node, held.executionId);
    const queued = await submitTo(server, 'n');
    await server.as('admin').call(apiRetireNode, { params: { id: 'n' } });
    expect(await onlyExecution(server, held.commandId)).toMatchObject({
      state: 'lost',
      presumed: true,
      error: { code: 'nodes.retired' },
    });
    expect(await onlyExecution(server, queued.commandId)).toMatchObject({ state: 'cancelled', presumed: false });
    expect(await queueDrift(server)).toEqual([]);
  });

  test('silence beyond the deadline is presumed lost; news make it true again; without a limit only a silent node is', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: { 'commands.lost_after_sec': 3600 } });
    const node = await server.enrol('n');
    const limited = await submitTo(server, 'n', {
      ttl_sec: 60,
      payload: { argv: ['x'], timeout_sec: 100, grace_sec: 0 },
    });
    const unlimited = await submitTo(server, 'n', { ttl_sec: 60, payload: { argv: ['x'], timeout_sec: 0 } });
    await poll(node);
    await ack(node, limited.executionId, unlimited.executionId);
    const states = async () => [
      (await onlyExecution(server, limited.commandId)).state,
      (await onlyExecution(server, unlimited.commandId)).state,
    ];
    const tick = () => server.running.commands.expiry.tick();
    clock.advance(61_000);
    await tick();
    expect(await states()).toEqual(['delivered', 'delivered']);
    clock.advance(3_600_000 + 98_000);
    await tick();
    expect(await states()).toEqual(['delivered', 'lost']); // the node was not heard of since; the other's own deadline is later
    clock.advance(61_000);
    await poll(node); // it lives, yet says nothing of the first one, whose time is over
    await tick();
    expect(await states()).toEqual(['lost', 'lost']);
    expect((await onlyExecution(server, limited.commandId)).presumed).toBe(true);
    await report(node, { command_id: unlimited.commandId, execution_id: unlimited.executionId, state: 'running' });
    clock.advance(3_500_000);
    await poll(node);
    clock.advance(3_500_000);
    await tick();
    expect(await states()).toEqual(['lost', 'running']);
    await finish(node, limited);
    expect(await states()).toEqual(['succeeded', 'running']);
  });

  test('retention deletes what ended long ago, output and all, and nothing else', async () => {
    const clock = handClock();
    await using server = await startTestServer({
      storage,
      clock,
      config: { 'commands.retention_days': 2, 'nodes.token_ttl_sec': 30 * 86_400 },
    });
    const node = await server.enrol('n');
    const old = await submitTo(server, 'n');
    await put(node, old.executionId, 'stdout', 0, Buffer.alloc(3 * 1024 * 1024));
    await finish(node, old, { output: undefined });
    clock.advance(DAY_MS);
    const newer = await submitTo(server, 'n');
    await put(node, newer.executionId, 'stdout', 0, Buffer.from('kept'));
    await finish(node, newer, { output: undefined });
    clock.advance(DAY_MS);
    await server.running.commands.expiry.tick();
    expect((await server.as('viewer').call(listCommands)).items.map(({ command_id }) => command_id)).toEqual([
      newer.commandId,
    ]);
    expect(await refusal(server.as('viewer').call(readLogs, { params: { id: old.commandId } }))).toEqual([
      404,
      'commands.unknown_command',
    ]);
    const left = await server.running.storage.read.selectFrom('commands_output').selectAll().execute();
    expect(left.map(({ execution_id }) => execution_id)).toEqual([newer.executionId]);
    expect((await finish(node, old, { output: undefined })).results.map(({ error }) => error?.code)).toEqual([
      'commands.unknown_execution',
    ]);
  });
});
