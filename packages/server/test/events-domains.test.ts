import { postStatus } from '@aegis/protocol/artifacts/endpoints';
import { FleetEvent } from '@aegis/protocol/events/event';
import { activateNode, apiPatchNode, apiRetireNode, deactivateNode } from '@aegis/protocol/nodes/endpoints';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { issueToken } from '../src/offline.ts';
import { assign, registry } from './artifacts-support.ts';
import { create, end, failedEnd, goodEnd, start, starting } from './backups-support.ts';
import { poll, STORAGES } from './commands-support.ts';
import { connectedNode, type EventReader, readEventsFrom } from './events-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** What each domain tells: every kind of event, whole. */

describe.each(STORAGES)('%s', (storage) => {
  let server: TestServer;
  let reader: EventReader;
  const clock = handClock();
  beforeEach(async () => {
    server = await startTestServer({ storage, clock });
    const { dataDir, databaseUrl } = server;
    const token = await issueToken({ dataDir, databaseUrl, role: 'viewer', name: 'reader' });
    reader = await readEventsFrom(server.url, token);
  });
  afterEach(async () => {
    await reader.stop();
    await server.close();
  });
  /** What came, without what each event has of its own; each of them as it is documented. */
  const told = async (count: number) => {
    await reader.wait(`${count} events`, () => reader.events().length >= count);
    return reader.events().map(({ id, at, ...event }) => {
      expect(z.safeParse(FleetEvent, { id, at, ...event }).error).toBe(undefined);
      return event;
    });
  };
  const of = (node: EnrolledNode) => ({ node: node.name, node_uid: node.uid });

  test('nodes: enrolled, there and away by either carrier, and what operators do with them', async () => {
    const node = await server.enrol('web-1');
    await poll(node, { wait: 0 });
    await told(2);
    await poll(node, { wait: 0 });
    const connection = await connectedNode(server, node);
    await told(3);
    await connection[Symbol.asyncDispose]();
    await told(4);
    const admin = server.as('admin');
    const id = { params: { id: node.uid } };
    await admin.call(apiPatchNode, { ...id, body: { maintenance: true } });
    await admin.call(apiPatchNode, { ...id, body: { maintenance: true } });
    await admin.call(deactivateNode, id);
    await admin.call(activateNode, id);
    await poll(node, { wait: 0 });
    await told(8);
    clock.advance(200_000);
    await server.running.presence.turn();
    await server.running.presence.turn();
    await admin.call(apiRetireNode, id);
    await server.keyless('old-1');
    expect(await told(11)).toEqual([
      { type: 'node.enrolled', ...of(node), keyless: false },
      { type: 'node.connected', ...of(node), carrier: 'poll' },
      { type: 'node.carrier', ...of(node), carrier: 'ws' },
      { type: 'node.disconnected', ...of(node), reason: 'closed' },
      { type: 'node.maintenance', ...of(node), maintenance: true },
      { type: 'node.deactivated', ...of(node) },
      { type: 'node.activated', ...of(node) },
      { type: 'node.connected', ...of(node), carrier: 'poll' },
      { type: 'node.disconnected', ...of(node), reason: 'silent' },
      { type: 'node.retired', ...of(node) },
      { type: 'node.enrolled', node: 'old-1', node_uid: expect.any(String), keyless: true },
    ]);
  });

  test('attachments: each state once, however often it is reported', async () => {
    const at = await registry(server);
    const { artifact_id: id } = await at.publish('a', '1.0.0');
    const node = await server.enrol('n');
    await assign(server, id, 'n');
    const report = (fields: object) =>
      node.call(postStatus, {
        params: { id },
        body: {
          name: 'a',
          version: '1.0.0',
          generation: 1,
          state: 'attached',
          at: '2026-11-21T00:00:00.000Z',
          ...fields,
        },
      });
    const [reason, other] = [1, 2].map((nth) => ({ code: 'artifacts.load_failed', message: `for the ${nth}. reason` }));
    for (const fields of [
      { state: 'loaded' },
      { state: 'loaded' },
      {},
      {},
      { state: 'failed', reason },
      { state: 'failed', reason },
      { state: 'failed', reason: other },
    ])
      await report(fields);
    const attachment = { ...of(node), artifact: 'a', version: '1.0.0', generation: 1, reason: null };
    expect((await told(5)).slice(1)).toEqual([
      { type: 'attachment.loaded', ...attachment },
      { type: 'attachment.attached', ...attachment },
      { type: 'attachment.failed', ...attachment, reason },
      { type: 'attachment.failed', ...attachment, reason: other },
    ]);
  });

  test('runs and alerts', async () => {
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'], alerts: { on_failure: true } });
    const [first, second] = [starting(config.config_id), starting(config.config_id)];
    await start(node, first);
    await start(node, first);
    await end(node, first.run_id, failedEnd());
    await end(node, first.run_id, failedEnd());
    const grant = await start(node, second);
    await end(node, second.run_id, goodEnd(node, config.config_id, grant));
    const shown = (await told(7)).slice(1);
    expect(shown.map(({ type }) => type)).toEqual([
      'run.running',
      'run.failed',
      'alert.backup.failed',
      'run.running',
      'run.completed',
      'alert.backup.recovered',
    ]);
    const run = {
      ...of(node),
      run_id: first.run_id,
      config_id: config.config_id,
      config: config.name,
      trigger: first.trigger,
      attempt: 1,
      archive_bytes: 0,
      uploaded_bytes: 0,
    };
    const { reason } = failedEnd();
    expect(shown.slice(0, 3)).toEqual([
      { type: 'run.running', ...run, reason: null },
      {
        type: 'run.failed',
        ...run,
        archive_bytes: failedEnd().archive_bytes,
        uploaded_bytes: failedEnd().uploaded_bytes,
        reason,
      },
      {
        type: 'alert.backup.failed',
        ...of(node),
        alert_id: expect.any(String),
        message: expect.stringContaining("The backup '"),
        config_id: config.config_id,
        config: config.name,
        run_id: first.run_id,
        since: null,
        reason,
      },
    ]);
  });
});

test('postgres: a node that moves from one server to another was there all the time', async () => {
  await using one = await startTestServer({ storage: 'postgres' });
  const { dataDir, databaseUrl = '' } = one;
  await using other = await startTestServer({ databaseUrl, dataDir });
  const token = await issueToken({ dataDir, databaseUrl, role: 'viewer', name: 'reader' });
  await using reader = await readEventsFrom(other.url, token, { type: 'node' });
  const told = async (count: number) => {
    await reader.wait(`${count} events`, () => reader.events().length >= count);
    return reader.events().map(({ type, carrier, reason }) => [type, carrier ?? reason ?? null]);
  };
  const node = await one.enrol('web-1');
  const first = await connectedNode(one, node);
  await told(2);
  const second = await connectedNode(other, node);
  // Each is told of after what came before it at the same server.
  const sentinel = await other.enrol('web-2');
  await poll({ ...other.withToken(sentinel.token), ...sentinel }, { wait: 0 });
  await told(4);
  await first[Symbol.asyncDispose]();
  await poll(
    { ...one.withToken(node.token), uid: node.uid, name: node.name, keys: node.keys, token: node.token },
    { wait: 0 },
  );
  await told(5);
  await second[Symbol.asyncDispose]();
  await one.as('admin').call(apiRetireNode, { params: { id: node.uid } });
  expect(await told(6)).toEqual([
    ['node.enrolled', null],
    ['node.connected', 'ws'],
    ['node.enrolled', null],
    ['node.connected', 'poll'],
    ['node.carrier', 'poll'], // it asks the one over HTTP, and its connection with the other counts no more
    ['node.retired', null],
  ]);
});
