import {
  cancelCommand,
  listCommands,
  listExecutions,
  readLogs,
  retryCommand,
  showCommand,
  submitCommand,
} from '@aegis/protocol/commands/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import {
  apiListNodes,
  apiPatchNode,
  apiRetireNode,
  apiShowNode,
  deactivateNode,
} from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listingService } from '../src/commands/listing.ts';
import { listingRepository } from '../src/commands/listing-repository.ts';
import { scopedParts } from '../src/commands/scoped-part.ts';
import { nodeScopes } from '../src/nodes/scope-repository.ts';
import { systemClock } from '../src/platform/clock.ts';
import { EMPTY, finish, poll, put, refusal, STORAGES, sha256 } from './commands-support.ts';
import { type ScopeStage, scopeStage } from './scope-stage.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';
import type { TestClient } from './test-client.ts';

/** A token with a scope knows the nodes within and what happened on them, and nothing else. */

describe.each(STORAGES)('on %s', (storage) => {
  let server: TestServer;
  let stage: ScopeStage;
  let viewer: TestClient;
  let operator: TestClient;
  let admin: TestClient;
  beforeAll(async () => {
    server = await startTestServer({ storage });
    stage = await scopeStage(server);
    viewer = await stage.scoped('viewer', 'site=fra');
    operator = await stage.scoped('operator', 'site=fra');
    admin = await stage.scoped('admin', 'site=fra');
  });
  afterAll(() => server.close());

  const submit = async (who: TestClient, targets: string[], more: object = {}) => {
    const answer = await who.call(submitCommand, {
      body: { command_type: 'exec', payload: { argv: ['true'] }, targets, ...more },
    });
    return {
      commandId: answer.command_id ?? '',
      names: answer.targets.map(({ name }) => name),
      executionOf: (name: string) => ({
        commandId: answer.command_id ?? '',
        executionId: answer.targets.find((one) => one.name === name)?.execution_id ?? '',
      }),
    };
  };
  const codeOf = <E extends Endpoint>(who: TestClient, ...of: Parameters<typeof who.call<E>>) =>
    refusal(who.call(...of));

  test('nodes beyond are in no list and no total, and cannot be named', async () => {
    const { agents, total } = await viewer.call(apiListNodes);
    expect([agents.map(({ name }) => name), total]).toEqual([['in-fra'], 1]);
    const paged = await viewer.call(apiListNodes, { query: { limit: 1 } });
    const rest = await viewer.call(apiListNodes, { query: { limit: 1, cursor: paged.next_cursor ?? '' } });
    expect([paged.agents.length, rest.agents, rest.next_cursor]).toEqual([1, [], null]);
    for (const id of [stage.ber.uid, stage.ber.name, 'nobody-has-this-name']) {
      expect(await codeOf(viewer, apiShowNode, { params: { id } })).toEqual([404, 'nodes.unknown_node']);
      const patch = codeOf(operator, apiPatchNode, { params: { id }, body: { maintenance: true } });
      expect(await patch).toEqual([404, 'nodes.unknown_node']);
      expect(await codeOf(operator, deactivateNode, { params: { id } })).toEqual([404, 'nodes.unknown_node']);
      expect(await codeOf(admin, apiRetireNode, { params: { id } })).toEqual([404, 'nodes.unknown_node']);
    }
    const { maintenance } = await operator.call(apiPatchNode, {
      params: { id: 'in-fra' },
      body: { maintenance: true },
    });
    expect(maintenance).toBe(true);
    await operator.call(apiPatchNode, { params: { id: 'in-fra' }, body: { maintenance: false } });
  });

  test('what rights hang on is not changed by those whose rights hang on it', async () => {
    for (const body of [{ site: 'ber' }, { labels: { team: 'a' } }])
      expect(await codeOf(admin, apiPatchNode, { params: { id: 'in-fra' }, body })).toEqual([
        403,
        'access.beyond_scope',
      ]);
  });

  test('a command reaches the nodes within: all are all of those, and others are unknown', async () => {
    expect((await submit(operator, ['all'])).names).toEqual(['in-fra']);
    expect((await submit(operator, ['site=ber or site=fra'])).names).toEqual(['in-fra']);
    expect((await submit(operator, ['all'], { dry_run: true })).names).toEqual(['in-fra']);
    expect((await submit(server.as('operator'), ['all'])).names).toEqual(['in-ber', 'in-fra']);
    for (const [targets, code] of [
      [['in-fra', 'in-ber'], 'commands.unknown_target'],
      [[stage.ber.uid], 'commands.unknown_target'],
      [['site=ber'], 'commands.no_target'],
    ] as const)
      expect(await refusal(submit(operator, [...targets]))).toEqual([422, code]);
  });

  test('a command that went to others too shows what happened within', async () => {
    const both = await submit(server.as('operator'), ['in-fra', 'in-ber', 'site=ber'], {
      idempotency_key: 'of admins',
    });
    const { commandId } = both;
    await poll(stage.fra);
    await poll(stage.ber);
    await put(stage.ber, both.executionOf('in-ber').executionId, 'stdout', 0, Buffer.from('secret of Berlin\n'));
    await put(stage.fra, both.executionOf('in-fra').executionId, 'stdout', 0, Buffer.from('of Frankfurt\n'));
    const params = { id: commandId };
    expect(await viewer.call(showCommand, { params })).toMatchObject({
      state: 'pending',
      result: { queued: 1 },
      agent_targets: ['in-fra'],
      idempotency_key: null,
    });
    const executions = await viewer.call(listExecutions, { params, query: { limit: 1 } });
    expect(executions.items.map(({ node }) => node)).toEqual(['in-fra']);
    const next = await viewer.call(listExecutions, {
      params,
      query: { limit: 1, cursor: executions.next_cursor ?? '' },
    });
    expect(next).toEqual({ items: [], next_cursor: null });
    const logs = await viewer.send(readLogs, { params });
    expect(logs.text).toContain('of Frankfurt');
    expect(logs.text).not.toMatch(/Berlin|in-ber/);
    for (const accept of ['application/x-ndjson', 'text/event-stream', 'application/octet-stream'])
      for (const query of [
        { node: 'in-ber', stream: 'stdout' as const },
        { node: stage.ber.uid, stream: 'stdout' as const },
      ])
        expect((await viewer.send(readLogs, { params, query, headers: { accept } })).status).toBe(404);
    const bytes = await viewer.send(readLogs, {
      params,
      query: { stream: 'stdout' },
      headers: { accept: 'application/octet-stream' },
    });
    expect([bytes.status, bytes.text]).toEqual([200, 'of Frankfurt\n']); // the only node that there is

    // Ended within, running beyond; and cancelled by an operator within, it goes on beyond.
    await finish(stage.ber, both.executionOf('in-ber'), {
      state: 'failed',
      exit_code: 1,
      output: OUTPUT('secret of Berlin\n'),
    });
    expect(await viewer.call(showCommand, { params })).toMatchObject({ state: 'pending', completed_at: null });
    const named = codeOf(operator, cancelCommand, { params, body: { node: 'in-ber' } });
    expect(await named).toEqual([404, 'commands.unknown_execution']);
    const cancelled = await operator.call(cancelCommand, { params, body: {} });
    expect([cancelled.state, cancelled.result]).toEqual(['cancelled', { cancelled: 1 }]);
    const whole = await server.as('viewer').call(showCommand, { params });
    expect([whole.state, whole.result, whole.idempotency_key]).toEqual([
      'failed',
      { cancelled: 1, failed: 1 },
      'of admins',
    ]);
    const listed = async (status: 'cancelled' | 'failed') =>
      (await viewer.call(listCommands, { query: { status } })).items.map(({ command_id }) => command_id);
    expect(await listed('cancelled')).toContain(commandId);
    expect(await listed('failed')).not.toContain(commandId);
    const again = await operator.call(retryCommand, { params, body: {} });
    expect(again.targets.map(({ name }) => name)).toEqual(['in-fra']);
  });

  test('a cancel leaves what runs beyond', async () => {
    const both = await submit(server.as('operator'), ['in-fra', 'in-ber']);
    await operator.call(cancelCommand, { params: { id: both.commandId }, body: {} });
    const { items } = await server.as('viewer').call(listExecutions, { params: { id: both.commandId } });
    expect(items.map(({ node, state }) => `${node} ${state}`).sort()).toEqual(['in-ber queued', 'in-fra cancelled']);
    expect(await codeOf(operator, cancelCommand, { params: { id: both.commandId }, body: {} })).toEqual([
      409,
      'commands.not_cancellable',
    ]);
    expect((await viewer.call(showCommand, { params: { id: both.commandId } })).state).toBe('cancelled');
  });

  test('a command of nodes beyond is unknown, to every call', async () => {
    const other = await submit(server.as('operator'), ['in-ber']);
    const params = { id: other.commandId };
    const unknown = [404, 'commands.unknown_command'];
    expect(await codeOf(viewer, showCommand, { params })).toEqual(unknown);
    expect(await codeOf(viewer, listExecutions, { params })).toEqual(unknown);
    expect(await codeOf(viewer, readLogs, { params })).toEqual(unknown);
    expect(await codeOf(viewer, readLogs, { params, query: { follow: 'true' } })).toEqual(unknown);
    expect(await codeOf(operator, cancelCommand, { params, body: {} })).toEqual(unknown);
    expect(await codeOf(operator, cancelCommand, { params, body: { node: 'in-ber' } })).toEqual(unknown);
    expect(await codeOf(operator, retryCommand, { params, body: {} })).toEqual(unknown);
    const ids = async (query: object) =>
      (await viewer.call(listCommands, { query: { limit: 1000, ...query } })).items.map((one) => one.command_id);
    for (const query of [{}, { status: 'pending' }, { agent: 'in-ber' }, { agent: stage.ber.uid }])
      expect(await ids(query)).not.toContain(other.commandId);
    expect(await ids({ agent: 'in-ber' })).toEqual([]);
  });

  test('pages of commands are whole whatever lies between them', async () => {
    const mine: string[] = [];
    for (let at = 0; at < 7; at++) {
      mine.unshift((await submit(server.as('operator'), ['in-fra'], { correlation_id: 'paged' })).commandId);
      for (let other = 0; other < 4; other++)
        await submit(server.as('operator'), ['in-ber'], { correlation_id: 'paged' });
    }
    for (const status of [undefined, 'pending' as const]) {
      const seen: string[] = [];
      let cursor: string | undefined;
      do {
        const query = { limit: 2, correlation_id: 'paged', ...(status && { status }), ...(cursor && { cursor }) };
        const page = await viewer.call(listCommands, { query });
        seen.push(...page.items.map(({ command_id }) => command_id));
        cursor = page.next_cursor ?? undefined;
      } while (cursor);
      expect(seen).toEqual(mine);
    }

    // The same where a page takes more looks than one: a few commands are looked at, then others are answered.
    const repository = listingRepository(server.running.storage);
    const parts = scopedParts({ repository, namesWithin: server.running.nodes.namesWithin });
    const listing = listingService({ repository, parts, clock: systemClock, window: 3 });
    const within = nodeScopes(storage)('site=fra');
    for (const limit of [1, 3, 100])
      for (const status of [undefined, 'pending' as const]) {
        const seen: string[] = [];
        let cursor: string | undefined;
        do {
          const page = await listing.commands({ limit, correlation_id: 'paged', status, cursor }, within);
          seen.push(...page.items.map(({ command_id }) => command_id));
          cursor = page.next_cursor ?? undefined;
        } while (cursor);
        expect([limit, status, seen]).toEqual([limit, status, mine]);
      }
  });

  test('an idempotency key is of one token, and its answer shows the nodes that are still within', async () => {
    const more = { idempotency_key: 'the same', payload: { argv: ['echo', 'idempotent'] } };
    const first = await submit(server.as('operator'), ['all'], more);
    const mine = await submit(operator, ['all'], more);
    expect([first.names, mine.names]).toEqual([['in-ber', 'in-fra'], ['in-fra']]);
    expect(mine.commandId).not.toBe(first.commandId);
    await stage.move(stage.fra, 'ams');
    const again = await submit(operator, ['all'], more);
    expect([again.commandId, again.names]).toEqual([mine.commandId, []]);
    await stage.move(stage.fra, 'fra');
  });

  test('a node whose site changes has left at once, with all that happened on it', async () => {
    const { commandId } = await submit(operator, ['in-fra']);
    const params = { id: commandId };
    const lines = (async () => {
      const { text } = await viewer.send(readLogs, { params, query: { follow: 'true' } });
      return text
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((line) => (JSON.parse(line) as { type: string }).type);
    })();
    expect((await viewer.call(showCommand, { params })).state).toBe('pending');
    await stage.move(stage.fra, 'ams');
    expect(await codeOf(viewer, apiShowNode, { params: { id: 'in-fra' } })).toEqual([404, 'nodes.unknown_node']);
    expect(await codeOf(viewer, showCommand, { params })).toEqual([404, 'commands.unknown_command']);
    expect(await codeOf(operator, cancelCommand, { params, body: {} })).toEqual([404, 'commands.unknown_command']);
    expect(await refusal(submit(operator, ['all']))).toEqual([422, 'commands.no_target']);
    // Who follows its output is told no more.
    await server.as('operator').call(cancelCommand, { params, body: {} });
    expect((await lines).filter((type) => type === 'end')).toEqual([]);
    await stage.move(stage.fra, 'fra');
    expect((await viewer.call(showCommand, { params })).state).toBe('cancelled');
  });
});

const OUTPUT = (stdout: string) => ({
  stdout: { bytes: Buffer.byteLength(stdout), sha256: sha256(stdout) },
  stderr: EMPTY,
});
