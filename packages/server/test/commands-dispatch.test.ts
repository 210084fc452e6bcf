import { openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { cancelCommand, pollCommands } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import { ack, finish, onlyExecution, poll, refusal, STORAGES, submit, submitTo, until } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

const idsOf = (answer: { commands: { execution_id: string }[] }) => answer.commands.map((one) => one.execution_id);

describe.each(STORAGES)('%s', (storage) => {
  test('priority first, then first come; what is not acknowledged comes again, what is does not', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const low = await submitTo(server, 'n', { priority: 'low' });
    const first = await submitTo(server, 'n');
    const second = await submitTo(server, 'n');
    const critical = await submitTo(server, 'n', { priority: 'critical' });
    const order = [critical, first, second, low].map(({ executionId }) => executionId);
    const offered = await poll(node);
    expect(idsOf(offered)).toEqual(order);
    expect(idsOf(await poll(node))).toEqual([]);
    await ack(node, critical.executionId, low.executionId);
    clock.advance(5000);
    const again = await poll(node);
    expect(again.commands).toEqual([offered.commands[1], offered.commands[2]]); // the same bytes
    expect(await onlyExecution(server, critical.commandId)).toMatchObject({ state: 'delivered', attempt: 1 });
  });

  test('a node that resumes is asked at once about all that has not ended', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const held = await submitTo(server, 'n');
    const unacknowledged = await submitTo(server, 'n');
    await poll(node);
    await ack(node, held.executionId);
    expect(idsOf(await poll(node))).toEqual([]);
    expect(idsOf(await poll(node, { resume: 'true' }))).toEqual([held.executionId, unacknowledged.executionId]);
  });

  test('an answer stays within what a daemon reads, also where a character is three bytes', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const stdin = '中'.repeat(1024 * 1024 + 1024);
    for (let at = 0; at < 4; at++) await submitTo(server, 'n', { payload: { argv: ['cat'], stdin } });
    const { status, text } = await node.raw('GET', '/v1/commands/poll');
    expect({ status, fits: Buffer.byteLength(text) <= 16 * 1024 * 1024 }).toEqual({ status: 200, fits: true });
    // What no envelope could carry would be acknowledged unread: refused when it is submitted.
    const large = {
      command_type: 'exec',
      targets: ['n'],
      payload: { argv: ['cat'], stdin: 'x'.repeat(6 * 1024 * 1024) },
    };
    expect(await refusal(submit(server, large))).toEqual([422, 'commands.invalid_payload']);
  });

  test('a keyless poller that resumes is never given again what it acknowledged', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.keyless('n');
    const held = await submitTo(server, 'n');
    const other = await submitTo(server, 'n');
    const first = await node.call(pollCommands, {});
    expect(first.commands[0]).toMatchObject({ command_type: 'exec', payload: { argv: ['true'] } });
    await node.raw('POST', '/v1/commands/ack', {
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ids: [held.executionId] }),
    });
    expect(idsOf(await node.call(pollCommands, { query: { resume: 'true' } }))).toEqual([other.executionId]);
  });

  test('the directive is the server key’s, for this node alone', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const { commandId } = await submitTo(server, 'n', {
      max_retries: 2,
      payload: { argv: ['echo', 'ü'], timeout_sec: 5 },
    });
    const [offer] = (await poll(node)).commands;
    const { trust_bundle } = await server.as('anyone').call(showTrust);
    const { keys } = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString()) as {
      keys: { public_key: string; usage: string[] }[];
    };
    const raw = Buffer.from(keys.find(({ usage }) => usage.includes('serve'))?.public_key ?? '', 'base64');
    if (!offer) throw new Error('nothing was offered');
    const { payload, signedBy } = openEnvelope(
      offer.directive,
      PAYLOAD_TYPES.directive,
      new Map([[keyIdOf(raw), publicKeyFromRaw(raw)]]),
    );
    expect(signedBy).toEqual([keyIdOf(raw)]);
    expect(JSON.parse(payload.toString())).toEqual({
      fleet: server.running.fleet,
      id: commandId,
      kind: 'command.run',
      targets: { node_keys: [node.keys.keyId] },
      issued_at: expect.any(String),
      expires_at: expect.any(String),
      max_attempts: 3,
      body: {
        command_type: 'exec',
        payload: { argv: ['echo', 'ü'], timeout_sec: 5, grace_sec: 10 },
        priority: 'normal',
        delivery: 'at-most-once',
        output_limit_bytes: 64 * 1024 * 1024,
      },
    });
    expect(offer).not.toHaveProperty('payload');
  });

  test('a waiting poll answers when work comes, and at its schedule', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const waiting = poll(node, { wait: 30 });
    await until('the poll waits', () => server.running.commands.dispatch.waiting() === 1);
    const now = await submitTo(server, 'n');
    expect(idsOf(await waiting)).toEqual([now.executionId]);
    await ack(node, now.executionId);
    const scheduledAt = Date.now() + 300;
    const later = await submitTo(server, 'n', { scheduled_at: new Date(scheduledAt).toISOString() });
    expect(idsOf(await poll(node, { wait: 30 }))).toEqual([later.executionId]);
    expect(Date.now()).toBeGreaterThanOrEqual(scheduledAt);
    expect(await onlyExecution(server, later.commandId)).toMatchObject({
      not_before: new Date(scheduledAt).toISOString(),
    });
  });

  test('a newer poll of a node sends the older one home; who hangs up leaves nothing behind', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const older = poll(node, { wait: 30 });
    await until('the first waits', () => server.running.commands.dispatch.waiting() === 1);
    const gone = new AbortController();
    const newer = node.call(pollCommands, { query: { wait: 30 }, signal: gone.signal }).catch(() => 'aborted');
    expect((await older).commands).toEqual([]);
    gone.abort();
    expect(await newer).toBe('aborted');
    await until('nobody waits', () => server.running.commands.dispatch.waiting() === 0);
    const { executionId } = await submitTo(server, 'n');
    expect(idsOf(await poll(node))).toEqual([executionId]);
  });

  test('no more in flight than the node may have; the end of one makes room', async () => {
    await using server = await startTestServer({ storage, config: { 'commands.max_in_flight_per_node': 2 } });
    const node = await server.enrol('n');
    const all = [];
    for (let at = 0; at < 4; at++) all.push(await submitTo(server, 'n'));
    const [a, b, c] = all;
    const first = idsOf(await poll(node));
    expect(first).toEqual([a?.executionId, b?.executionId]);
    expect(idsOf(await poll(node))).toEqual([]);
    await ack(node, ...first);
    const waiting = poll(node, { wait: 30 });
    await until('it waits', () => server.running.commands.dispatch.waiting() === 1);
    await finish(node, a ?? { commandId: '', executionId: '' });
    expect(idsOf(await waiting)).toEqual([c?.executionId]);
  });

  test('what has expired is never offered, what was offered stays known as offered over a restart', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const gone = await submitTo(server, 'n', { ttl_sec: 1 });
    clock.advance(1000);
    expect(idsOf(await poll(node))).toEqual([]);
    const offered = await submitTo(server, 'n', { ttl_sec: 10 });
    expect(idsOf(await poll(node))).toEqual([offered.executionId]);
    await server.restart();
    clock.advance(10_000);
    await server.running.commands.expiry.tick();
    expect(await onlyExecution(server, gone.commandId)).toMatchObject({ state: 'expired', presumed: false });
    expect(await onlyExecution(server, offered.commandId)).toMatchObject({ state: 'expired', presumed: true });
  });

  test('a stopping server sends its pollers home with a time to come back', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const waiting = poll(node, { wait: 30 });
    await until('it waits', () => server.running.commands.dispatch.waiting() === 1);
    await server.running.close();
    expect(await waiting).toMatchObject({ commands: [], retry_after_ms: 2000 });
  });

  test('payloads that are large travel a few at a time', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const stdin = 'x'.repeat(5 * 1024 * 1024);
    const a = await submitTo(server, 'n', { payload: { argv: ['cat'], stdin } });
    const b = await submitTo(server, 'n', { payload: { argv: ['cat'], stdin } });
    const c = await submitTo(server, 'n');
    expect(idsOf(await poll(node))).toEqual([a.executionId]);
    expect(idsOf(await poll(node))).toEqual([b.executionId, c.executionId]);
    await server.as('operator').call(cancelCommand, { params: { id: c.commandId }, body: {} });
  });
});
