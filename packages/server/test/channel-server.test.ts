import { randomBytes } from 'node:crypto';
import { connect as connectSocket } from 'node:net';
import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import { makeEphemeral, openAnswer, signRequest } from '@aegis/protocol/channel/handshake';
import type { AuthenticationResponse } from '@aegis/protocol/channel/messages';
import { sealer } from '@aegis/protocol/channel/sealing';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { expect, test } from 'vitest';
import { settled } from '../../../test/faults/settled.ts';
import { headersOf, open } from './channel-support.ts';
import { submitTo } from './commands-support.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** The channel of a whole server: whose word counts there, and what is remembered of whose does not. */

const connectAs = async (server: TestServer, node: EnrolledNode, keys = node.keys) => {
  const raw = await open(`${server.url.replace('http', 'ws')}/ws/agent`, headersOf({ ...node, keys }));
  const ephemeral = makeEphemeral();
  const request = signRequest(server.running.fleet, keys, {
    agent_id: node.name,
    public_key: keys.publicRaw.toString('base64'),
    timestamp: Math.floor(Date.now() / 1000),
    nonce: randomBytes(32).toString('base64'),
    versions: [1],
    ephemeral_key: ephemeral.publicRaw.toString('base64'),
  });
  raw.ws.send(JSON.stringify(request));
  const answer = JSON.parse(await raw.next()) as AuthenticationResponse;
  return { raw, request, ephemeral, answer };
};
/** Connected, and its hello said. */
const greeted = async (server: TestServer, node: EnrolledNode) => {
  const { raw, request, ephemeral, answer } = await connectAs(server, node);
  if (!answer.success) throw new Error(answer.message);
  const keys = openAnswer({ fleet: server.running.fleet, isServerKey: () => true, ephemeral }, request, answer);
  const { seal } = sealer({
    key: keys.nodeToServer,
    direction: 'node to server',
    rotation: { messages: 100, ms: 1e9 },
    clock: { now: () => Date.now(), monotonic: () => performance.now() },
    signing: null,
  });
  raw.ws.send(seal({ id: 'a', type: 'event', channel: 'hello' }, '{"version":"0.1.0"}'));
  return { raw, seal };
};
/** Time that goes on, and leaps when it is told to. */
const jumping = () => {
  let offsetMs = 0;
  return {
    now: () => Date.now() + offsetMs,
    advance: (ms: number) => {
      offsetMs += ms;
    },
  };
};
const refusals = async (server: TestServer) =>
  (await server.as('admin').call(listAudit, { query: { action: 'connectChannel' } })).items.map(
    ({ actor_kind, actor_name, outcome, code }) => ({ actor_kind, actor_name, outcome, code }),
  );

test('who is refused, and who speaks out of turn, stands in the audit; a retired node is cut off', async () => {
  await using server = await startTestServer();
  const node = await server.enrol('web-1');
  const other = await server.enrol('web-2');
  const thief = await connectAs(server, { ...node, name: 'web-1' }, other.keys);
  expect(thief.answer).toMatchObject({ success: false, code: 'access.unauthenticated' });
  await settled(async () =>
    expect(await refusals(server)).toEqual([
      { actor_kind: 'nobody', actor_name: null, outcome: 'refused', code: 'access.unauthenticated' },
    ]),
  );

  const { raw, seal } = await greeted(server, node);
  const frame = seal({ id: 'b', type: 'event', channel: 'heartbeat' }, '{}');
  raw.ws.send(frame);
  raw.ws.send(frame);
  expect((await raw.closed).code).toBe(4004);
  await settled(async () =>
    expect(await refusals(server)).toContainEqual({
      actor_kind: 'node',
      actor_name: 'web-1',
      outcome: 'refused',
      code: 'channel.bad_sequence',
    }),
  );

  const { raw: others } = await greeted(server, other);
  await server.as('admin').call(apiRetireNode, { params: { id: other.uid } });
  expect((await others.closed).code).toBe(4006);
  expect((await connectAs(server, other)).answer).toMatchObject({ success: false, code: 'access.unauthenticated' });
});

test('a web page that brings cookies, and frames that are none, stand in the audit', async () => {
  await using server = await startTestServer();
  const url = `${server.url.replace('http', 'ws')}/ws/agent`;
  const node = await server.enrol('web-1');
  const page = { ...headersOf(node), origin: 'https://evil.example', cookie: 'session=1' };
  await expect(open(url, page)).rejects.toThrow(/^403 /);
  const { raw } = await greeted(server, node);
  raw.ws.send(Buffer.from('bytes'));
  expect((await raw.closed).code).toBe(4004);
  const refused = { outcome: 'refused' };
  await settled(async () =>
    expect(await refusals(server)).toEqual([
      { ...refused, actor_kind: 'node', actor_name: 'web-1', code: 'channel.bad_frame' },
      { ...refused, actor_kind: 'nobody', actor_name: null, code: 'access.forbidden' },
    ]),
  );
});

test('a refused upgrade leaves no socket behind, though the client never hangs up', async () => {
  await using server = await startTestServer();
  for (const [path, status] of [
    ['/ws/agent', 400], // without the headers of a node
    ['/ws/else', 404],
  ] as const) {
    const socket = connectSocket({ port: Number(new URL(server.url).port), host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined); // what comes once the other side is gone
    let answer = '';
    socket.on('data', (data) => {
      answer += data.toString('utf8');
    });
    const ended = new Promise((resolve) => socket.once('end', resolve));
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n`);
    await ended;
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} .*"error":`, 's'));
    // Nobody is there any more who would take it; a socket that is half open takes it for ever.
    const gone = await settled(() => {
      socket.write('x');
      expect(socket.destroyed).toBe(true);
    }).then(
      () => true,
      () => false,
    );
    socket.destroy();
    expect([path, gone]).toEqual([path, true]);
  }
});

test("what a node asks of another's over its channel stands in the audit", async () => {
  const clock = jumping();
  await using server = await startTestServer({ clock });
  const node = await server.enrol('web-1');
  await server.enrol('web-2');
  const { commandId, executionId } = await submitTo(server, 'web-2');
  const { raw, seal } = await greeted(server, node);
  const ask = (id: string, channel: string, call: string, body: unknown) =>
    raw.ws.send(seal({ id, type: 'request', channel }, JSON.stringify({ call, body })));
  const chunks = [{ stream: 'stdout', offset: 0, data: 'forged' }];
  const state = { command_id: commandId, execution_id: executionId, state: 'running' };
  for (const [at, channel, call, body] of [
    ['1', 'logs', 'pushLogs', { command_id: commandId, execution_id: executionId, chunks }],
    ['2', 'commands', 'pushStatus', { reports: [state] }],
  ] as const) {
    ask(at, channel, call, body);
    await settled(async () => {
      server.running.audit.flush(); // the second one of a minute is counted, and told at its end
      const { items } = await server.as('admin').call(listAudit, { query: { action: call, outcome: 'refused' } });
      expect(items.map(({ actor_name, code }) => [actor_name, code])).toEqual([
        ['web-1', 'commands.unknown_execution'],
      ]);
    });
    clock.advance(61_000);
  }
});

test('a server stops with nodes connected', async () => {
  const server = await startTestServer();
  const node = await server.enrol('web-1');
  const { raw, seal } = await greeted(server, node);
  raw.ws.send(seal({ id: 'b', type: 'request', channel: 'telemetry' }, 'null'));
  await raw.next(); // that nobody listens there: so it is connected
  const stranger = await open(`${server.url.replace('http', 'ws')}/ws/agent`, headersOf(node));
  const unproven = await connectAs(server, node);
  await server.close();
  expect([(await raw.closed).code, (await stranger.closed).code, (await unproven.raw.closed).code]).toEqual([
    1012, 1006, 1006,
  ]);
});
