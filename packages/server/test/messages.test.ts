import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import { createToken } from '@aegis/protocol/access/endpoints';
import { agentStatus, broadcastMessage, sendMessage, showMessage } from '@aegis/protocol/messages/endpoints';
import { answerMessage, pollMessages } from '@aegis/protocol/messages/node-endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { settled } from '../../../test/faults/settled.ts';
import { connectTo, type SpeakingNode } from './messages-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** What the server promises of messages, with a node that says what the test likes. */

const TIMES = { now: Date.now() };
let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({
    clock: { now: () => TIMES.now },
    config: {
      messages_queue_size: 5,
      messages_retry_attempts: 2,
      messages_answer_timeout_sec: 2,
      messages_keep_sec: 3600,
    },
  });
});
afterAll(() => server.close());

let nodes = 0;
const freshNode = (): Promise<EnrolledNode> => server.enrol(`node-${++nodes}`);
const connected = async (node: EnrolledNode, hello?: object): Promise<SpeakingNode> => {
  const speaking = await connectTo(server, node, hello);
  await settled(async () => expect((await status(node)).connected).toBe(true));
  return speaking;
};
const operator = () => server.as('operator');
const status = (node: EnrolledNode) => server.as('viewer').call(agentStatus, { params: { id: node.name } });
const send = (node: EnrolledNode, body: object = {}) =>
  operator().call(sendMessage, {
    params: { id: node.name },
    body: { channel: 'my.channel', message: { say: 'hello' }, ...body },
  });
const shown = (node: EnrolledNode, id: string) =>
  server.as('viewer').call(showMessage, { params: { id: node.uid, message_id: id } });
const stateOf = async (node: EnrolledNode, id: string) => (await shown(node, id)).state;
const until = (node: EnrolledNode, id: string, state: string) =>
  settled(async () => expect(await stateOf(node, id)).toBe(state));

test('status, send and broadcast answer field for field as the seed has it', async () => {
  const [away, here] = [await freshNode(), await freshNode()];
  expect(await status(away)).toEqual({
    agent_id: away.name,
    connected: false,
    last_seen: new Date(TIMES.now).toISOString(),
    channels: [],
    session_expires: null,
  });
  expect(await send(away)).toEqual({ message_id: expect.stringMatching(/^[0-9a-f-]{36}$/), status: 'queued' });
  const speaking = await connected(here, { channels: ['my.channel', 'other'] });
  expect(await status(here)).toEqual({
    agent_id: here.name,
    connected: true,
    last_seen: new Date(TIMES.now).toISOString(),
    channels: ['hello', 'commands', 'logs', 'artifacts', 'backups', 'telemetry', 'heartbeat', 'my.channel', 'other'],
    session_expires: new Date(TIMES.now + 86_400_000).toISOString(),
  });
  const sent = await send(here, { message_type: 'event' });
  expect(sent).toEqual({ message_id: expect.any(String), status: 'sent' });
  const first = await speaking.given();
  expect(first).toEqual({
    id: expect.any(String),
    channel: 'my.channel',
    message_id: sent.message_id,
    message_type: 'event',
    message: { say: 'hello' },
    expires_at: new Date(TIMES.now + 3_600_000).toISOString(),
  });
  expect(await stateOf(here, sent.message_id)).toBe('sent');
  speaking.reply(first, { reply: 'done\n' });
  await until(here, sent.message_id, 'delivered');
  expect(await shown(here, sent.message_id)).toEqual({
    message_id: sent.message_id,
    agent_id: here.name,
    channel: 'my.channel',
    message_type: 'event',
    state: 'delivered',
    retries: 0,
    created_at: new Date(TIMES.now).toISOString(),
    expires_at: new Date(TIMES.now + 3_600_000).toISOString(),
    ended_at: new Date(TIMES.now).toISOString(),
    reply: 'done\n',
  });

  const all = await operator().call(broadcastMessage, { body: { channel: 'other', message: { n: 1 } } });
  expect(all).toEqual({ message_id: expect.any(String), sent_to: [here.name], failed: [away.name] });
  const second = await speaking.given();
  expect([second.message_id, second.channel, second.message]).toEqual([all.message_id, 'other', { n: 1 }]);
  speaking.reply(second, null);
  await until(here, all.message_id, 'delivered');
  expect((await shown(here, all.message_id)).reply).toBeNull();
  // Nothing is kept for who was not there.
  const lost = await operator().send(showMessage, { params: { id: away.name, message_id: all.message_id } });
  expect([lost.status, lost.json]).toMatchObject([404, { error: { code: 'messages.unknown_message' } }]);
  await speaking.hangUp();
});

test('what is asked for with timeout_sec is in the answer', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const asked = send(node, { timeout_sec: 20 });
  const first = await speaking.given();
  speaking.reply(first, { reply: 'gA==', encoding: 'base64', truncated: true });
  expect(await asked).toEqual({
    message_id: first.message_id,
    status: 'sent',
    state: 'delivered',
    reply: 'gA==',
    encoding: 'base64',
    truncated: true,
  });
  const refused = send(node, { timeout_sec: 20 });
  speaking.refuse(await speaking.given(), 'messages.hook_failed');
  expect(await refused).toEqual({
    message_id: expect.any(String),
    status: 'failed',
    state: 'failed',
    error: { code: 'messages.hook_failed', message: 'it says messages.hook_failed' },
  });
  await speaking.hangUp();
  await settled(async () => expect((await status(node)).connected).toBe(false));
  expect(await send(node, { timeout_sec: 1 })).toEqual({
    message_id: expect.any(String),
    status: 'queued',
    state: 'queued',
  });
});

test('who has a scope reaches the nodes within, and the others do not exist', async () => {
  const [within, beyond] = [
    await server.enrol('in-fra', { site: 'fra' }),
    await server.enrol('in-ber', { site: 'ber' }),
  ];
  const both = [await connected(within), await connected(beyond)];
  const { token } = await server
    .as('admin')
    .call(createToken, { body: { name: 'fra', role: 'operator', scope: 'site=fra' } });
  const scoped = server.withToken(token);
  const body = { channel: 'x', message: {} };
  const all = await scoped.send(broadcastMessage, { body });
  expect([all.status, all.json]).toMatchObject([403, { error: { code: 'access.beyond_scope' } }]);
  const { message_id } = await send(beyond);
  for (const answer of [
    await scoped.send(sendMessage, { params: { id: beyond.uid }, body }),
    await scoped.send(agentStatus, { params: { id: 'in-ber' } }),
    await scoped.send(showMessage, { params: { id: beyond.uid, message_id } }),
  ])
    expect([answer.status, answer.json]).toMatchObject([404, { error: { code: 'nodes.unknown_node' } }]);
  expect((await scoped.call(agentStatus, { params: { id: 'in-fra' } })).connected).toBe(true);
  for (const one of both) await one.hangUp();
});

test('built-in channels, what is too large, a retired and an unknown node are refused', async () => {
  const node = await freshNode();
  const answer = async (body: object, id = node.name) => {
    const { status: code, json } = await operator().send(sendMessage, {
      params: { id },
      body: { channel: 'x', message: {}, ...body },
    });
    return [code, (json as { error: { code: string } }).error.code];
  };
  for (const channel of ['hello', 'commands', 'logs', 'artifacts', 'backups', 'telemetry', 'heartbeat'])
    expect(await answer({ channel })).toEqual([422, 'messages.reserved_channel']);
  const { status: code } = await operator().send(broadcastMessage, { body: { channel: 'logs', message: {} } });
  expect(code).toBe(422);
  expect(await answer({ message: { text: 'x'.repeat(256 * 1024) } })).toEqual([413, 'http.too_large']);
  for (const bad of [{ channel: 'A' }, { message: 'text' }, { message: [] }, { message_type: 'shout' }])
    expect(await answer(bad)).toEqual([400, 'http.malformed']);
  expect(await answer({}, 'nobody')).toEqual([404, 'nodes.unknown_node']);
  const waiting = await send(node);
  await server.as('admin').call(apiRetireNode, { params: { id: node.uid } });
  expect(await answer({}, node.uid)).toEqual([403, 'nodes.retired']);
  expect(await shown(node, waiting.message_id)).toMatchObject({ state: 'failed', error: { code: 'nodes.retired' } });
});

test('a queue has an end, and each node its own', async () => {
  const [full, other] = [await freshNode(), await freshNode()];
  for (let n = 0; n < 5; n++) await send(full, { message: { n } });
  const refused = await operator().send(sendMessage, {
    params: { id: full.name },
    body: { channel: 'x', message: {} },
  });
  expect([refused.status, refused.headers.get('retry-after'), refused.json]).toMatchObject([
    503,
    '30',
    { error: { code: 'messages.queue_full' } },
  ]);
  expect((await send(other)).status).toBe('queued');
  // In the order in which they were sent, each when the one before was answered.
  const speaking = await connected(full);
  for (let n = 0; n < 5; n++) {
    const given = await speaking.given();
    expect(given.message).toEqual({ n });
    speaking.reply(given, { reply: `${n}` });
  }
  await speaking.hangUp();
  expect((await send(full)).status).not.toBe('failed');
});

test('a channel that is slow holds up itself alone', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const slow = await send(node, { channel: 'slow' });
  const held = await speaking.given();
  await send(node, { channel: 'slow', message: { second: true } });
  const quick = send(node, { channel: 'quick', timeout_sec: 20 });
  const given = await speaking.given();
  expect(given.channel).toBe('quick');
  speaking.reply(given, { reply: 'at once' });
  expect((await quick).state).toBe('delivered');
  expect(await stateOf(node, slow.message_id)).toBe('sent');
  speaking.reply(held, null);
  expect((await speaking.given()).message).toEqual({ second: true });
  await speaking.hangUp();
});

test('what a node did not answer comes again with the same id, so often and no more', async () => {
  const node = await freshNode();
  const { message_id } = await send(node);
  for (let times = 0; times < 3; times++) {
    const speaking = await connected(node);
    expect((await speaking.given()).message_id).toBe(message_id);
    expect((await shown(node, message_id)).retries).toBe(times);
    await speaking.hangUp();
    await settled(async () => expect((await status(node)).connected).toBe(false));
  }
  const next = await send(node, { message: { next: true } });
  const last = await connected(node);
  expect((await last.given()).message_id).toBe(next.message_id);
  expect(await shown(node, message_id)).toMatchObject({
    state: 'failed',
    retries: 2,
    error: { code: 'messages.no_answer' },
  });
  await last.hangUp();
});

test('a node that never answers is asked again while it is connected, and then the next has its turn', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const { message_id } = await send(node);
  const next = await send(node, { message: { next: true } });
  const ids: string[] = [];
  while (ids.at(-1) !== next.message_id) ids.push((await speaking.given()).message_id);
  expect(ids).toEqual([message_id, message_id, message_id, next.message_id]);
  expect(await stateOf(node, message_id)).toBe('failed');
  await speaking.hangUp();
}, 20_000);

test('a node that is busy is asked again, and that does not count', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const { message_id } = await send(node);
  for (let times = 0; times < 3; times++) {
    const given = await speaking.given();
    expect(given.message_id).toBe(message_id);
    speaking.refuse(given, times % 2 ? 'http.unavailable' : 'journal.full');
  }
  speaking.reply(await speaking.given(), { reply: 'now' });
  await until(node, message_id, 'delivered');
  expect((await shown(node, message_id)).retries).toBe(0);
  await speaking.hangUp();
}, 20_000);

test('what expired is not given any more; what was given and not answered expires later', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const given = await send(node, { ttl_sec: 10 });
  await speaking.given();
  await speaking.hangUp();
  const waiting = await send(node, { ttl_sec: 10 });
  const lasting = await send(node, { ttl_sec: 1000 });
  TIMES.now += 10_000;
  const again = await connected(node);
  expect((await again.given()).message_id).toBe(lasting.message_id);
  for (const { message_id } of [given, waiting])
    expect(await shown(node, message_id)).toMatchObject({ state: 'expired', error: { code: 'messages.expired' } });
  await again.hangUp();
});

test.each([
  ['a number', 7],
  ['a text', 'done'],
  ['a list', []],
  ['no reply', {}],
  ['a reply that is no text', { reply: 7 }],
  ['an unknown encoding', { reply: 'x', encoding: 'hex' }],
  ['a field more', { reply: 'x', more: true }],
  ['far too much', { reply: 'x'.repeat(600 * 1024) }],
])('a node that answers %s has not delivered, and the next has its turn', async (_, result) => {
  const node = await freshNode();
  const speaking = await connected(node);
  const { message_id } = await send(node);
  const next = await send(node, { message: { next: true } });
  speaking.reply(await speaking.given(), result);
  expect((await speaking.given()).message_id).toBe(next.message_id);
  expect(await shown(node, message_id)).toMatchObject({ state: 'failed', error: { code: 'messages.bad_answer' } });
  await speaking.hangUp();
});

test('a node that answers twice, or what it was not asked, is hung up on, and the first answer counts', async () => {
  const [node, other] = [await freshNode(), await freshNode()];
  const speaking = await connected(node);
  const { message_id } = await send(node);
  const given = await speaking.given();
  speaking.reply(given, { reply: 'first' });
  speaking.reply(given, { reply: 'second' });
  expect((await speaking.closed).code).toBe(4004);
  await until(node, message_id, 'delivered');
  expect((await shown(node, message_id)).reply).toBe('first');

  const mine = await connected(node);
  const theirs = await connected(other);
  await send(node);
  const asked = await mine.given();
  theirs.reply(asked, { reply: 'I am that node' });
  expect((await theirs.closed).code).toBe(4004);
  expect(await stateOf(node, asked.message_id)).toBe('sent');
  await mine.hangUp();
});

test('a node of many channels: what it has no hook for ends at once, and one that does not say is tried so often', async () => {
  const node = await freshNode();
  const speaking = await connected(node, { channels: ['mine'] });
  expect(await send(node, { channel: 'yours', timeout_sec: 20 })).toMatchObject({
    status: 'failed',
    error: { code: 'channel.no_handler' },
  });
  const reached = send(node, { channel: 'mine', timeout_sec: 20 });
  speaking.reply(await speaking.given(), null);
  expect((await reached).state).toBe('delivered');
  await speaking.hangUp();

  const silent = await connected(node);
  const outcomes: (string | undefined)[] = [];
  for (let n = 0; n < 34; n++) {
    const one = send(node, { channel: `channel-${n}`, timeout_sec: 20 });
    if (n < 32) silent.reply(await silent.given(), null);
    outcomes.push((await one).state);
  }
  expect(outcomes).toEqual([...Array(32).fill('delivered'), 'failed', 'failed']);
  await silent.hangUp();
}, 20_000);

test('polls: the oldest of each channel, again until it is answered; by whom it is for', async () => {
  const [node, other] = [await freshNode(), await freshNode()];
  const first = await send(node, { message: { n: 1 } });
  const second = await send(node, { message: { n: 2 } });
  const aside = await send(node, { channel: 'aside' });
  const polled = async (query: object = {}) =>
    (await node.call(pollMessages, { query })).messages.map((one) => [one.channel, one.message_id]);
  expect(await polled()).toEqual([
    ['aside', aside.message_id],
    ['my.channel', first.message_id],
  ]);
  expect(await polled({ except: 'aside' })).toEqual([['my.channel', first.message_id]]);
  expect((await shown(node, first.message_id)).retries).toBe(1);
  const say = (who: EnrolledNode, message_id: string, said: object = { result: { reply: 'polled' } }) =>
    who.send(answerMessage, { body: { message_id, ...said } });
  const foreign = await say(other, first.message_id);
  expect([foreign.status, foreign.json]).toMatchObject([404, { error: { code: 'messages.unknown_message' } }]);
  // Never given, so not answered.
  expect((await say(node, second.message_id)).json).toEqual({ message_id: second.message_id, state: 'queued' });
  const held = node.call(pollMessages, { query: { wait: 30, except: 'aside,my.channel' } });
  expect((await say(node, first.message_id)).json).toEqual({ message_id: first.message_id, state: 'delivered' });
  expect((await say(node, first.message_id, { result: { reply: 'other' } })).json).toMatchObject({
    state: 'delivered',
  });
  expect((await shown(node, first.message_id)).reply).toBe('polled');
  await say(node, aside.message_id, { error: { code: 'channel.no_handler', message: 'none' } });
  expect(await shown(node, aside.message_id)).toMatchObject({
    state: 'failed',
    error: { code: 'channel.no_handler', message: 'none' },
  });
  const later = await send(node, { channel: 'later' });
  expect((await held).messages.map((one) => one.message_id)).toEqual([later.message_id]);
  // One that a poll brought may be answered over the channel, where it comes again.
  const speaking = await connected(node);
  const ids = new Set([(await speaking.given()).message_id, (await speaking.given()).message_id]);
  expect(ids).toEqual(new Set([later.message_id, second.message_id]));
  await speaking.hangUp();
});

test('nothing of a message or its reply can be read in the database, or moved there', async () => {
  const node = await freshNode();
  const speaking = await connected(node);
  const { message_id } = await send(node, { message: { say: 'a-secret-to-keep' } });
  speaking.reply(await speaking.given(), { reply: 'a-reply-to-keep' });
  await until(node, message_id, 'delivered');
  await speaking.hangUp();
  const waiting = await send(node, { message: { say: 'a-secret-to-keep' } });
  const other = await send(node, { message: { say: 'another' } });
  const { storage } = server.running;
  const rows = await storage.read.selectFrom('message_queue').selectAll().execute();
  expect(JSON.stringify(rows)).not.toMatch(/to-keep|another/);
  const from = rows.find((row) => row.id === other.message_id);
  await storage.write('test', (tx) =>
    tx
      .updateTable('message_queue')
      .set({ encrypted_payload: from?.encrypted_payload ?? '', nonce: from?.nonce ?? '' })
      .where('id', '=', waiting.message_id)
      .execute(),
  );
  const again = await connected(node);
  expect((await again.given()).message_id).toBe(other.message_id);
  expect(await shown(node, waiting.message_id)).toMatchObject({
    state: 'failed',
    error: { code: 'messages.unreadable' },
  });
  await again.hangUp();
});

test('what ended is kept for a while and then forgotten', async () => {
  const clock = handClock();
  await using one = await startTestServer({ clock, config: { messages_keep_sec: 60 } });
  const node = await one.enrol('web-1');
  const sent = await one.as('operator').call(sendMessage, {
    params: { id: 'web-1' },
    body: { channel: 'x', message: {}, ttl_sec: 5 },
  });
  const state = async () =>
    (await one.as('viewer').send(showMessage, { params: { id: node.uid, message_id: sent.message_id } })).json;
  expect(await state()).toMatchObject({ state: 'queued' });
  clock.advance(5000);
  await one.running.messages.sweep();
  expect(await state()).toMatchObject({ state: 'expired' });
  clock.advance(61_000);
  await one.running.messages.sweep();
  expect(await state()).toMatchObject({ error: { code: 'messages.unknown_message' } });
});

test('each state of a message is told, and nothing of what it says', async () => {
  const [node, late] = [await freshNode(), await freshNode()];
  const speaking = await connected(node);
  const sent = await send(node, { message: { say: 'a-secret-to-keep' } });
  speaking.refuse(await speaking.given(), 'messages.hook_failed', { message: 'a-secret-to-keep' });
  await until(node, sent.message_id, 'failed');
  await speaking.hangUp();
  const second = await send(late, { ttl_sec: 1 });
  TIMES.now += 2000;
  await server.running.messages.sweep();
  const rows = await server.running.storage.read
    .selectFrom('events')
    .selectAll()
    .where('type', 'like', 'message.%')
    .where('node_uid', 'in', [node.uid, late.uid])
    .orderBy('id')
    .execute();
  expect(
    rows.map((row) => [row.type, row.node_name, ...Object.values(JSON.parse(row.data) as Record<string, unknown>)]),
  ).toEqual([
    ['message.queued', node.name, sent.message_id, 'my.channel', null],
    ['message.sent', node.name, sent.message_id, 'my.channel', null],
    [
      'message.failed',
      node.name,
      sent.message_id,
      'my.channel',
      expect.objectContaining({ code: 'messages.hook_failed' }),
    ],
    ['message.queued', late.name, second.message_id, 'my.channel', null],
    [
      'message.expired',
      late.name,
      second.message_id,
      'my.channel',
      expect.objectContaining({ code: 'messages.expired' }),
    ],
  ]);
  expect(JSON.stringify(rows)).not.toContain('a-secret');
});

test('who sent what to whom stands in the audit, and not what it says', async () => {
  const node = await freshNode();
  const { message_id } = await send(node, { message: { say: 'a-secret-to-keep' }, message_type: 'event', ttl_sec: 9 });
  const { items } = await server.as('admin').call(listAudit, { query: { action: 'sendMessage', limit: 1 } });
  expect(items.map(({ actor_name, targets, summary, outcome }) => ({ actor_name, targets, summary, outcome }))).toEqual(
    [
      {
        actor_name: 'test-operator',
        targets: [node.name, message_id],
        summary: ['ttl_sec=9', 'channel=my.channel', 'message_type=event'],
        outcome: 'ok',
      },
    ],
  );
});
