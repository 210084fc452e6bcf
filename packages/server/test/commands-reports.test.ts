import { ackCommands, pushLogs, pushStatus } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import {
  ack,
  commandOf,
  EMPTY,
  executionsOf,
  finish,
  onlyExecution,
  poll,
  put,
  queueDrift,
  refusal,
  report,
  STORAGES,
  sha256,
  signed,
  submit,
  submitTo,
} from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

const output = (stdout: string) => ({
  stdout: { bytes: Buffer.byteLength(stdout), sha256: sha256(stdout) },
  stderr: EMPTY,
});

describe.each(STORAGES)('%s', (storage) => {
  test('a final report counts with the node’s signature over exactly what is posted', async () => {
    await using server = await startTestServer({ storage });
    const [node, other] = [await server.enrol('n'), await server.enrol('other')];
    const ids = await submitTo(server, 'n');
    const fields = {
      command_id: ids.commandId,
      execution_id: ids.executionId,
      state: 'succeeded' as const,
      exit_code: 0,
      output: output(''),
    };
    const good = signed(node, fields);
    const single = (body: object) => refusal(node.call(pushStatus, { body: body as never }));
    expect(await single(fields)).toEqual([403, 'access.bad_signature']);
    expect(await single(signed(other, fields))).toEqual([403, 'access.bad_signature']);
    expect(await single({ ...good, state: 'failed' })).toEqual([422, 'commands.report_mismatch']);
    expect(await single({ ...signed(node, { ...fields, attempt: 2 }) })).toEqual([422, 'commands.report_mismatch']);
    expect((await onlyExecution(server, ids.commandId)).state).toBe('queued');
    // What was signed counts, whatever stands beside it.
    await node.call(pushStatus, { body: { ...good, exit_code: 7 } });
    expect(await onlyExecution(server, ids.commandId)).toMatchObject({
      state: 'succeeded',
      exit_code: 0,
      report_signed: true,
      output_verified: true,
    });
  });

  test('a batch answers each report for itself; a node touches only its own', async () => {
    await using server = await startTestServer({ storage });
    const [node, other] = [await server.enrol('n'), await server.enrol('other')];
    const mine = await submitTo(server, 'n');
    const short = await submitTo(server, 'n');
    const theirs = await submitTo(server, 'other');
    const make = (ids: typeof mine, text: string, extra: object = {}) =>
      signed(node, {
        command_id: ids.commandId,
        execution_id: ids.executionId,
        state: 'succeeded',
        output: output(text),
        ...extra,
      });
    const { results } = await report(
      node,
      { ...make(mine, 'hi\n'), chunks: [{ stream: 'stdout', offset: 0, data: 'hi\n' }] },
      { ...make(short, 'long\n'), chunks: [{ stream: 'stdout', offset: 0, data: 'lo' }] },
      make(theirs, ''),
      make({ ...mine, executionId: mine.commandId }, ''),
    );
    expect(
      results.map(({ execution_id, state, next, error }) => [execution_id, state, next.stdout, error?.code]),
    ).toEqual([
      [mine.executionId, 'succeeded', 3, undefined],
      [short.executionId, 'queued', 2, 'commands.output_incomplete'],
      [theirs.executionId, 'succeeded', 0, 'commands.unknown_execution'],
      [mine.commandId, 'succeeded', 0, 'commands.unknown_execution'],
    ]);
    expect((await onlyExecution(server, theirs.commandId)).state).toBe('queued');
    const unknown = [404, 'commands.unknown_execution'];
    expect(await refusal(put(node, theirs.executionId, 'stdout', 0, Buffer.from('x')))).toEqual(unknown);
    expect(await refusal(ack(node, theirs.executionId))).toEqual(unknown);
    expect(await refusal(node.call(pushLogs, { body: { command_id: theirs.commandId, chunks: [] } }))).toEqual(unknown);
    expect(await ack(node, theirs.executionId, short.executionId)).toEqual({ acknowledged: 1 });
    // The rest of the output, then the report again.
    await put(node, short.executionId, 'stdout', 2, Buffer.from('ng\n'));
    expect((await report(node, make(short, 'long\n'))).results[0]).toMatchObject({
      state: 'succeeded',
      next: { stdout: 5 },
    });
    expect(await onlyExecution(server, short.commandId)).toMatchObject({ output_verified: true });
    expect(await onlyExecution(server, mine.commandId)).toMatchObject({ output_verified: true });
    expect((await poll(other)).commands).toHaveLength(1);
  });

  test('hashes are checked also after a restart; wrong ones show; a gap leaves the question open', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const verdicts: (boolean | null)[] = [];
    for (const kind of ['restart', 'wrong', 'gap'] as const) {
      const ids = await submitTo(server, 'n');
      await put(node, ids.executionId, 'stdout', 0, Buffer.from('first '));
      if (kind === 'restart') await server.restart();
      if (kind === 'gap')
        await node.call(pushLogs, {
          body: {
            command_id: ids.commandId,
            execution_id: ids.executionId,
            chunks: [{ stream: 'stdout', offset: 6, gap: 6, reason: 'freed_after_ack' }],
          },
        });
      else await put(node, ids.executionId, 'stdout', 6, Buffer.from('second'));
      await finish(node, ids, { output: output(kind === 'wrong' ? 'first sEcond' : 'first second') });
      verdicts.push((await onlyExecution(server, ids.commandId)).output_verified);
    }
    expect(verdicts).toEqual([true, false, null]);
  });

  test('retries come with doubling pauses and end with the last attempt; the command counts each node once', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const { commandId, executionId } = await submitTo(server, 'n', { max_retries: 2, retry_backoff_sec: 10 });
    let current = { commandId, executionId };
    const pauses: number[] = [];
    for (let attempt = 1; attempt <= 3; attempt++) {
      const [offer] = (await poll(node)).commands;
      expect(offer).toMatchObject({ attempt, command_id: commandId });
      current = { commandId, executionId: offer?.execution_id ?? '' };
      await ack(node, current.executionId);
      await finish(node, current, { state: 'failed', exit_code: attempt });
      const next = (await executionsOf(server, commandId)).find((one) => one.attempt === attempt + 1);
      if (!next) break;
      expect(await commandOf(server, commandId)).toMatchObject({ state: 'pending', result: { queued: 1 } });
      const pause = Date.parse(next.not_before ?? '') - clock.now();
      pauses.push(Math.floor(pause / 1000 / 10 ** 1));
      expect((await poll(node)).commands).toEqual([]);
      clock.advance(pause);
    }
    expect(pauses).toEqual([1, 2]); // 10 s and 20 s, each with up to a fifth more
    expect(await commandOf(server, commandId)).toMatchObject({
      state: 'failed',
      retry_count: 2,
      result: { failed: 1 },
      error_message: 'n: exit code 3',
    });
    expect((await executionsOf(server, commandId)).map(({ attempt, exit_code }) => [attempt, exit_code])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    expect(await queueDrift(server)).toEqual([]);
  });

  test('lost is repeated only under at-least-once; a late report of attempt 1 changes nothing during attempt 2', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const once = await submitTo(server, 'n', { max_retries: 5 });
    await finish(node, once, { state: 'lost', output: undefined });
    expect(await commandOf(server, once.commandId)).toMatchObject({ state: 'failed', retry_count: 0 });
    const again = await submitTo(server, 'n', { delivery: 'at-least-once', retry_backoff_sec: 0 });
    await finish(node, again, { state: 'lost', output: undefined });
    const [offer] = (await poll(node, { wait: 10 })).commands;
    const second = { commandId: again.commandId, executionId: offer?.execution_id ?? '' };
    await report(node, { command_id: again.commandId, execution_id: second.executionId, state: 'running' });
    await finish(node, again, { state: 'succeeded' });
    await report(node, { command_id: again.commandId, execution_id: again.executionId, attempt: 1, state: 'running' });
    expect((await executionsOf(server, again.commandId)).map(({ attempt, state }) => [attempt, state])).toEqual([
      [1, 'lost'],
      [2, 'running'],
    ]);
    expect(await commandOf(server, again.commandId)).toMatchObject({ state: 'running', result: { running: 1 } });
    await finish(node, second);
    expect(await commandOf(server, again.commandId)).toMatchObject({ state: 'succeeded', result: { succeeded: 1 } });
  });

  test('an acknowledgement lost until the server had called it expired: the node’s word counts', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n', { ttl_sec: 5 });
    await poll(node);
    clock.advance(6000);
    await server.running.commands.expiry.tick();
    expect(await commandOf(server, ids.commandId)).toMatchObject({ state: 'expired', executed_at: null });
    await ack(node, ids.executionId);
    expect(await onlyExecution(server, ids.commandId)).toMatchObject({
      state: 'delivered',
      presumed: false,
      finished_at: null,
    });
    expect(await commandOf(server, ids.commandId)).toMatchObject({ state: 'running', completed_at: null });
    await finish(node, ids);
    expect(await commandOf(server, ids.commandId)).toMatchObject({ state: 'succeeded', result: { succeeded: 1 } });
    expect(await queueDrift(server)).toEqual([]);
  });

  test('a server restored from an older backup than its nodes’ journals', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    // The backup is from before the first poll: it knows the execution, queued, and nothing of what came after.
    const old = await submitTo(server, 'n', { max_retries: 1, retry_backoff_sec: 0 });
    const before = server.running.storage.read;
    const backup = await before.selectFrom('commands_executions').selectAll().executeTakeFirstOrThrow();
    await poll(node);
    await put(node, old.executionId, 'stdout', 0, Buffer.from('acknowledged and freed, '));
    await finish(node, old, { state: 'failed', output: output('acknowledged and freed, ') });
    const firstLife = await executionsOf(server, old.commandId);
    await server.running.storage.write('restore', async (tx) => {
      await tx.deleteFrom('commands_output').execute();
      await tx.deleteFrom('commands_executions').execute();
      await tx.insertInto('commands_executions').values(backup).execute();
      await tx.updateTable('commands').set({ state: 'pending', result: '{"queued":1}', retry_count: 0 }).execute();
    });
    // What the server never knew is refused so that the daemon lets go of it.
    const lost = { commandId: old.commandId, executionId: firstLife[1]?.execution_id ?? '' };
    expect((await finish(node, lost)).results[0]?.error?.code).toBe('commands.unknown_execution');
    // What it knows it offers again; the node has seen it and says what became of it, with a gap for what it freed.
    expect((await poll(node)).commands.map(({ execution_id }) => execution_id)).toEqual([old.executionId]);
    await ack(node, old.executionId);
    const incomplete = await finish(node, old, { state: 'failed', output: output('acknowledged and freed, ') });
    expect(incomplete.results[0]).toMatchObject({
      error: { code: 'commands.output_incomplete' },
      next: { stdout: 0, stderr: 0 },
    });
    await node.call(pushLogs, {
      body: {
        command_id: old.commandId,
        execution_id: old.executionId,
        chunks: [{ stream: 'stdout', offset: 0, gap: 24, reason: 'freed_after_ack' }],
      },
    });
    await finish(node, old, { state: 'failed', output: output('acknowledged and freed, ') });
    // The second attempt has the id that it had before: what the node reports of it is no longer unknown.
    const secondLife = await executionsOf(server, old.commandId);
    expect(secondLife.map(({ execution_id, state }) => [execution_id, state])).toEqual([
      [old.executionId, 'failed'],
      [lost.executionId, 'queued'],
    ]);
    await finish(node, lost);
    expect(await commandOf(server, old.commandId)).toMatchObject({ state: 'succeeded', result: { succeeded: 1 } });
  });

  test('thousands of nodes: each report moves the command’s counts by one', async () => {
    await using server = await startTestServer({ storage });
    const nodes = [];
    for (let at = 0; at < 20; at++) nodes.push(await server.enrol(`n${at}`));
    const answer = await submit(server, { targets: ['all'] });
    const commandId = answer.command_id ?? '';
    await Promise.all(
      nodes.map(async (node, at) => {
        const executionId = answer.targets.find(({ uid }) => uid === node.uid)?.execution_id ?? '';
        await poll(node);
        await node.call(ackCommands, { body: { ids: [executionId] } });
        await finish(node, { commandId, executionId }, at % 4 === 0 ? { state: 'failed', exit_code: 1 } : {});
      }),
    );
    expect(await commandOf(server, commandId)).toMatchObject({
      state: 'partial',
      result: { succeeded: 15, failed: 5 },
    });
    expect(await queueDrift(server)).toEqual([]);
  });
});
