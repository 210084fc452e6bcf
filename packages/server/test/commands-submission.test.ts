import { cancelCommand, listCommands, retryCommand, seedSubmit } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import {
  ack,
  commandOf,
  executionsOf,
  finish,
  poll,
  queueDrift,
  refusal,
  STORAGES,
  submit,
  submitTo,
} from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

describe.each(STORAGES)('%s', (storage) => {
  test('a submission reaches each node once, by name, uid and selector, and says why', async () => {
    await using server = await startTestServer({ storage });
    const web1 = await server.enrol('web-1', { labels: { env: 'prod' } });
    const web2 = await server.enrol('web-2', { labels: { env: 'prod' } });
    await server.enrol('db-1');
    const answer = await submit(server, { targets: ['label.env=prod', web1.uid, 'web-2'] });
    expect(answer.targets.map(({ name, matched_by }) => [name, matched_by])).toEqual([
      ['web-1', 'label.env=prod'],
      ['web-2', 'label.env=prod'],
    ]);
    expect((await executionsOf(server, answer.command_id ?? '')).map(({ node, state }) => [node, state])).toEqual([
      ['web-1', 'queued'],
      ['web-2', 'queued'],
    ]);
    expect((await poll(web2)).commands.map(({ command_id }) => command_id)).toEqual([answer.command_id]);
    expect(await commandOf(server, answer.command_id ?? '')).toMatchObject({
      state: 'pending',
      result: { queued: 2 },
      verb: 'exec',
      args: { argv: ['true'], timeout_sec: 3600, grace_sec: 10 },
      agent_targets: ['label.env=prod', web1.uid, 'web-2'],
      actor: { kind: 'token', name: 'test-operator' },
      correlation_id: answer.command_id,
    });
  });

  test('selectors are few: each is asked about each node', async () => {
    await using server = await startTestServer({ storage });
    await server.enrol('n');
    const selectors = (count: number) => Array.from({ length: count }, (_, at) => `name=n or name=m${at}`);
    expect((await submit(server, { targets: selectors(20) })).targets).toHaveLength(1);
    expect(await refusal(submit(server, { targets: selectors(21) }))).toEqual([422, 'commands.bad_selector']);
  });

  test('both doors, and both names of each field', async () => {
    await using server = await startTestServer({ storage });
    await server.enrol('n');
    const operator = server.as('operator');
    const seed = await operator.call(seedSubmit, {
      body: { verb: 'RunCommand', args: { cmd: 'ls' }, agent_targets: 'n', unknown: 'ignored' } as never,
    });
    expect((await commandOf(server, seed.command_id ?? '')).payload).toMatchObject({ cmd: 'ls' });
    expect(await refusal(submit(server, { targets: ['n'], unknown: 1 } as never))).toEqual([400, 'http.malformed']);
    expect((await submit(server, { targets: ['n'], agent_targets: ['n'], verb: 'exec' })).targets).toHaveLength(1);
    expect(await refusal(submit(server, { targets: ['n'], agent_targets: ['m'] }))).toEqual([
      422,
      'commands.invalid_payload',
    ]);
    expect(await refusal(submit(server, { targets: ['n'], args: { argv: ['false'] } }))).toEqual([
      422,
      'commands.invalid_payload',
    ]);
  });

  test('what is wrong is refused with its code and stores nothing', async () => {
    await using server = await startTestServer({ storage });
    await server.enrol('n');
    const refused = async (body: object) => (await refusal(submit(server, body)))[1];
    expect(await refused({ targets: ['nobody'] })).toBe('commands.unknown_target');
    expect(await refused({ targets: ['site=nowhere'] })).toBe('commands.no_target');
    expect(await refused({ targets: ['site='] })).toBe('commands.bad_selector');
    expect(await refused({})).toBe('commands.no_target');
    expect(await refused({ targets: ['n'], command_type: 'Nothing' })).toBe('commands.unsupported_type');
    expect(await refused({ targets: ['n'], payload: { argv: [] } })).toBe('commands.invalid_payload');
    expect(await refused({ targets: ['n'], scheduled_at: '2999-01-01T00:00:00Z' })).toBe('commands.invalid_payload');
    expect(await refused({ targets: ['n'], scheduled_at: '2020-01-01T00:00:00Z' })).toBe('commands.invalid_payload');
    expect((await server.as('viewer').call(listCommands)).items).toEqual([]);
  });

  test('a start up to a minute ago is one at once, an earlier one is refused, a repeat is answered however late', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    await server.enrol('n');
    const at = (ms: number) => ({ targets: ['n'], scheduled_at: new Date(clock.now() + ms).toISOString() });
    await expect(submit(server, at(-60_001))).rejects.toMatchObject({
      status: 422,
      message: expect.stringContaining("'scheduled_at' is in the past"),
      details: { field: 'scheduled_at' },
    });
    await expect(submit(server, { ...at(-60_001), dry_run: true })).rejects.toMatchObject({ status: 422 });
    const once = { ...at(-60_000), idempotency_key: 'k' };
    const first = await submit(server, once);
    clock.advance(3_600_000);
    expect(await submit(server, once)).toEqual(first);
  });

  test('a dry run names whom it would reach and writes nothing', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    expect(await submit(server, { targets: ['all'], dry_run: true, idempotency_key: 'k' })).toEqual({
      command_id: null,
      state: 'pending',
      expires_at: expect.any(String),
      targets: [{ uid: node.uid, name: 'n', status: 'online', execution_id: null, matched_by: 'all' }],
    });
    expect((await server.as('viewer').call(listCommands)).items).toEqual([]);
    expect((await submit(server, { targets: ['all'], idempotency_key: 'k' })).command_id).not.toBeNull();
  });

  test('an idempotency key gives the same answer again, also at once and by header; another body is a conflict', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const body = { targets: ['n'], idempotency_key: 'once' };
    const answers = await Promise.all([1, 2, 3, 4].map(() => submit(server, body)));
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    const again = await server.as('operator').raw('POST', '/api/v1/commands', {
      headers: { 'content-type': 'application/json', 'idempotency-key': 'once' },
      body: JSON.stringify({ targets: ['n'], payload: { argv: ['true'] }, command_type: 'exec' }),
    });
    expect(again.json).toEqual(answers[0]);
    expect(await refusal(submit(server, { ...body, priority: 'high' }))).toEqual([
      409,
      'commands.idempotency_conflict',
    ]);
    expect((await poll(node)).commands).toHaveLength(1);
    // Another person's key is another key.
    const other = await server.as('admin').raw('POST', '/api/v1/commands', {
      headers: { 'content-type': 'application/json', 'idempotency-key': 'once' },
      body: JSON.stringify({ targets: ['n'], command_type: 'RunCommand', payload: { cmd: 'true' } }),
    });
    expect(other.status).toBe(202);
  });

  test('a full queue refuses the whole submission', async () => {
    await using server = await startTestServer({ storage, config: { 'commands.max_queued_per_node': 2 } });
    const a = await server.enrol('a');
    await server.enrol('b');
    await submitTo(server, 'a');
    await submitTo(server, 'a');
    expect(await refusal(submit(server, { targets: ['b', 'a'] }))).toEqual([503, 'commands.queue_full']);
    expect((await server.as('viewer').call(listCommands)).items).toHaveLength(2);
    const [first] = (await poll(a)).commands;
    await ack(a, first?.execution_id ?? '');
    expect((await submit(server, { targets: ['b', 'a'] })).targets).toHaveLength(2);
    expect(await queueDrift(server)).toEqual([]);
  });

  test('lists filter and page; a cursor of nobody is refused', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const [n] = [await server.enrol('n'), await server.enrol('m')];
    const ids: string[] = [];
    for (const priority of ['low', 'high', 'normal'] as const) {
      clock.advance(1000);
      ids.unshift((await submitTo(server, 'n', { priority, correlation_id: `c-${priority}` })).commandId);
    }
    const other = await submitTo(server, 'm', { command_type: 'RunCommand', payload: { cmd: 'true' } });
    const viewer = server.as('viewer');
    const list = async (query: object) =>
      (await viewer.call(listCommands, { query })).items.map(({ command_id }) => command_id);
    expect(await list({})).toEqual([other.commandId, ...ids]);
    expect(await list({ agent: 'n' })).toEqual(ids);
    expect(await list({ agent: n.uid, priority: 'low' })).toEqual([ids[2]]);
    expect(await list({ verb: 'RunCommand' })).toEqual([other.commandId]);
    expect(await list({ correlation_id: 'c-high' })).toEqual([ids[1]]);
    expect(await list({ status: 'running' })).toEqual([]);
    const page = await viewer.call(listCommands, { query: { limit: 3 } });
    expect(page.items).toHaveLength(3);
    const rest = await viewer.call(listCommands, { query: { limit: 3, cursor: page.next_cursor ?? '' } });
    expect(rest).toMatchObject({ items: [{ command_id: ids[2] }], next_cursor: null });
    for (const cursor of ['x', 'WzFd', Buffer.from('["a"]').toString('base64url')])
      expect(await refusal(viewer.call(listCommands, { query: { cursor } }))).toEqual([400, 'http.bad_cursor']);
  });

  test('a retry by hand is a new command for the nodes on which the old one did not succeed', async () => {
    await using server = await startTestServer({ storage });
    const [a, b] = [await server.enrol('a'), await server.enrol('b')];
    const answer = await submit(server, { targets: ['a', 'b'] });
    const commandId = answer.command_id ?? '';
    const [ofA, ofB] = answer.targets.map(({ execution_id }) => execution_id ?? '');
    const retry = () => server.as('operator').call(retryCommand, { params: { id: commandId }, body: {} });
    expect(await refusal(retry())).toEqual([409, 'commands.not_retryable']);
    await finish(a, { commandId, executionId: ofA ?? '' });
    await finish(b, { commandId, executionId: ofB ?? '' }, { state: 'failed', exit_code: 3 });
    expect(await commandOf(server, commandId)).toMatchObject({ state: 'partial', error_message: 'b: exit code 3' });
    const again = await retry();
    expect(again.targets.map(({ name }) => name)).toEqual(['b']);
    expect(await commandOf(server, again.command_id ?? '')).toMatchObject({
      correlation_id: commandId,
      payload: { argv: ['true'] },
      state: 'pending',
    });
    await server.as('operator').call(cancelCommand, { params: { id: again.command_id ?? '' }, body: {} });
  });
});
