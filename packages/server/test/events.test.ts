import { connect } from 'node:net';
import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { FleetEvent } from '@aegis/protocol/events/event';
import { apiPatchNode } from '@aegis/protocol/nodes/endpoints';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { waitFor } from '../../../test/faults/wait.ts';
import { NDJSON } from '../src/events/event-lines.ts';
import { ack, finish, poll, STORAGES, submitTo } from './commands-support.ts';
import { type EventReader, readEventsFrom } from './events-support.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** The stream of events: what is told, to whom, from where on, and what is said where nothing can be told. */

const tokenFor = (server: TestServer, more: { scope?: string; ttl_sec?: number; name?: string } = {}) =>
  server.as('admin').call(createToken, { body: { name: 'reader', role: 'viewer', ...more } });
const about = (nth: number, more: object = {}) => ({
  type: 'alert.backup.failed',
  node: null,
  data: { nth, ...more },
});
/** In one transaction. */
const publish = (server: TestServer, ...events: ReturnType<typeof about>[]) =>
  server.running.storage.write('test', (tx) => server.running.events.publish(tx, events));
const numbers = (reader: EventReader) => reader.events().map((event) => event.nth);
const upTo = (count: number) => Array.from({ length: count }, (_, nth) => nth);

describe.each(STORAGES)('%s', (storage) => {
  test('a command is told state by state, live and again from any point', async () => {
    await using server = await startTestServer({ storage });
    const { token } = await tokenFor(server);
    const node = await server.enrol('web-1');
    await using live = await readEventsFrom(server.url, token, { type: 'execution' });
    const ids = await submitTo(server, 'web-1');
    await poll(node);
    await ack(node, ids.executionId);
    await finish(node, ids);
    const states = () => live.events().map(({ type }) => type.replace('execution.', ''));
    await live.wait('the end', () => states().length >= 3);
    expect(states()).toEqual(['queued', 'delivered', 'succeeded']);
    for (const event of live.events()) expect(z.safeParse(FleetEvent, event).error).toBe(undefined);
    const [first, ...others] = live.events();
    const from = first?.id ?? '';
    await using again = await readEventsFrom(server.url, token, { type: 'execution', from, follow: 'false' });
    await again.ended;
    expect(again.events()).toEqual(others);
    expect(again.lines.at(-1)?.type).toBe('end');
    // A browser that comes back: the header is stronger than the address.
    const header = { 'last-event-id': others[0]?.id ?? '', accept: 'text/event-stream' };
    await using browser = await readEventsFrom(server.url, token, { from: '0', follow: 'false' }, header);
    await browser.ended;
    expect(browser.events().filter(({ type }) => type.startsWith('execution'))).toEqual(others.slice(1));
  });

  test('removed ones are a gap: to who comes back too late, and to who is too slow meanwhile', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: { 'events.max_events': 1000 } });
    const { token } = await tokenFor(server);
    const { events } = server.running;
    const more = async (first: number, end: number): Promise<void> => {
      for (let nth = first; nth < end; nth += 500) {
        await publish(server, ...upTo(500).map((at) => about(nth + at)));
        await events.retention.turn();
      }
    };
    await more(0, 1000);
    const over = new AbortController();
    // It has read the beginning, and takes the rest only after most of it was removed.
    const slow = await events.read({
      ...{ types: ['alert'], nodes: null, within: null, follow: true, format: NDJSON, isGood: async () => true },
      ...{ from: 0, signal: over.signal },
    });
    let slowText = '';
    const until = async (nth: number): Promise<void> => {
      while (!slowText.includes(`"nth":${nth}}`)) slowText += (await slow.next()).value;
    };
    await until(5);
    await more(1000, 6000);
    await until(5999);
    over.abort();
    const lines = slowText
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    const at = lines.findIndex(({ type }) => type === 'gap');
    const before = lines.slice(0, at);
    expect(before.map(({ nth }) => nth)).toEqual(upTo(before.length));
    expect(lines[at]).toEqual({ type: 'gap', reason: 'retention', from: before.at(-1).id, id: expect.any(String) });
    expect(lines.slice(at + 1).map(({ nth }) => nth)).toEqual(upTo(6000).slice(5000));

    await using late = await readEventsFrom(server.url, token, { from: '0', type: 'alert', follow: 'false' });
    await late.ended;
    expect(late.lines[0]).toEqual({ type: 'gap', reason: 'retention', from: '0', id: lines[at].id });
    expect(numbers(late)).toEqual(upTo(6000).slice(5000));
    clock.advance(8 * 86_400_000);
    await events.retention.turn();
    const from = late.lastId() ?? '';
    await using none = await readEventsFrom(server.url, token, { from, type: 'alert', follow: 'false' });
    await none.ended;
    expect(none.lines).toEqual([{ type: 'end', id: from }]); // the last one is gone, and after it was none
  });

  test('an id that the server does not know is a gap', async () => {
    await using server = await startTestServer({ storage });
    const { token } = await tokenFor(server);
    await publish(server, about(1), about(2));
    await using all = await readEventsFrom(server.url, token, { from: '0', follow: 'false' });
    await all.ended;
    const [first, second] = all.events().map(({ id }) => id);
    for (const [from, goesOn] of [
      [String(Number.MAX_SAFE_INTEGER), second],
      [String(Number(first) - 1), String(Number(first) - 1)],
    ] as const) {
      await using reader = await readEventsFrom(server.url, token, { from, follow: 'false' });
      await reader.ended;
      expect(reader.lines[0]).toEqual({ type: 'gap', reason: 'unknown_id', from, id: goesOn });
    }
    await server.restart();
    await publish(server, about(3));
    await using later = await readEventsFrom(server.url, token, { from: second ?? '', follow: 'false' });
    await later.ended;
    expect(numbers(later)).toEqual([3]);
    // After a restore from before them no id means something else.
    expect(Number(later.lastId())).toBeGreaterThan(Number(second) + 1000);
  });
});

test('whom a token does not reach it is not told of; a node that moves is told of from then on', async () => {
  await using server = await startTestServer();
  const [fra, par] = [await server.enrol('fra-1', { site: 'fra' }), await server.enrol('par-1', { site: 'par' })];
  const { token } = await tokenFor(server, { scope: 'site=fra' });
  await using reader = await readEventsFrom(server.url, token, { from: '0' });
  const patch = (uid: string, body: object) => server.as('admin').call(apiPatchNode, { params: { id: uid }, body });
  await publish(server, about(1));
  await patch(par.uid, { maintenance: true });
  await patch(fra.uid, { maintenance: true });
  await patch(par.uid, { site: 'fra' });
  await patch(par.uid, { maintenance: false });
  await reader.wait('what comes last', () => reader.events().some(({ node }) => node === 'par-1'));
  expect(reader.events().map(({ type, node }) => [type, node])).toEqual([
    ['node.enrolled', 'fra-1'],
    ['node.maintenance', 'fra-1'],
    ['node.maintenance', 'par-1'],
  ]);
  await patch(par.uid, { site: 'par' });
  const beyond = await readEventsFrom(server.url, token, { node: 'fra-1,par-1' });
  expect(beyond.status).toBe(404);
});

test('a token that is revoked or runs out is told nothing more', async () => {
  const clock = handClock();
  await using server = await startTestServer({ clock });
  const revoked = await tokenFor(server, { name: 'a' });
  const expiring = await tokenFor(server, { name: 'b', ttl_sec: 60 });
  await using first = await readEventsFrom(server.url, revoked.token);
  await using second = await readEventsFrom(server.url, expiring.token, {}, { accept: 'text/event-stream' });
  await publish(server, about(1));
  for (const reader of [first, second]) await reader.wait('the first', () => reader.events().length === 1);
  await server.as('admin').call(revokeToken, { params: { id: revoked.id } });
  await first.ended;
  clock.advance(61_000);
  await second.ended;
  await publish(server, about(2));
  expect([numbers(first), numbers(second)]).toEqual([[1], [1]]);
  expect(server.running.events.streams.size()).toBe(0);
});

test('who takes nothing is cut off, holds nobody up, and finds the rest when it comes back', async () => {
  await using server = await startTestServer({ config: { 'events.stall_sec': 1 } });
  const { token } = await tokenFor(server);
  await using quick = await readEventsFrom(server.url, token, { type: 'alert' });
  const { port } = new URL(server.url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.write(`GET /api/v1/events?type=alert HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  let heard = '';
  socket.on('data', (bytes) => {
    heard += String(bytes);
    if (heard.includes('"nth":3')) socket.pause();
  });
  socket.on('error', () => undefined);
  await waitFor('both to listen', () => server.running.events.streams.size() === 2);
  const padding = 'x'.repeat(60_000);
  for (let batch = 0; batch < 20; batch++)
    await publish(server, ...upTo(20).map((nth) => about(batch * 20 + nth, { padding })));
  await quick.wait('all', () => numbers(quick).length === 400);
  await waitFor('the other to be cut off', () => server.running.events.streams.size() === 1);
  expect(numbers(quick)).toEqual(upTo(400));
  const from = /^id: (\d+)$/m.exec(heard)?.[1] ?? '';
  await using back = await readEventsFrom(server.url, token, { from, type: 'alert', follow: 'false' });
  await back.ended;
  expect(numbers(back)).toEqual(upTo(400));
  socket.destroy();
});

test('signs of life: a comment, and with it where to go on', async () => {
  await using server = await startTestServer({ config: { 'events.heartbeat_sec': 1 } });
  const { token } = await tokenFor(server);
  await using browser = await readEventsFrom(server.url, token, { type: 'node' }, { accept: 'text/event-stream' });
  await using script = await readEventsFrom(server.url, token, { type: 'node' });
  expect(browser.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  expect(script.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
  await waitFor('where they begin', () => [browser, script].every((reader) => reader.lastId() !== undefined));
  const began = browser.lastId();
  await publish(server, about(1)); // which they do not want
  await waitFor('both to be further', () => [browser, script].every((reader) => reader.lastId() !== began));
  expect([browser.lines, script.lines.at(-1)?.type]).toEqual([[], 'position']);
  expect(script.lastId()).toBe(browser.lastId());
});

test('so many streams of one token, and from one address', async () => {
  await using server = await startTestServer({ config: { 'events.max_streams_each': 2, 'events.max_streams': 3 } });
  const [one, other] = [await tokenFor(server, { name: 'a' }), await tokenFor(server, { name: 'b' })];
  await using first = await readEventsFrom(server.url, one.token);
  await using _second = await readEventsFrom(server.url, other.token);
  for (const { token } of [one, other]) {
    const refused = await readEventsFrom(server.url, token);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '5']);
  }
  await first.stop();
  await waitFor('its place', () => server.running.events.streams.size() === 1);
  await using again = await readEventsFrom(server.url, one.token);
  expect(again.status).toBe(200);
});

test.each([
  ['type=', 400, 'http.malformed'],
  ['type=nodes', 400, 'http.malformed'],
  ['type=node,execution.never', 400, 'http.malformed'],
  [`type=${'node,'.repeat(51)}`, 400, 'http.malformed'],
  ['node=', 400, 'http.malformed'],
  ['node=web-9', 404, 'nodes.unknown_node'],
  ['from=-1', 400, 'http.malformed'],
  ['from=01', 400, 'http.malformed'],
  ['from=9999999999999999', 400, 'http.malformed'],
  ['follow=maybe', 400, 'http.malformed'],
])('bad input: %s', async (query, status, code) => {
  const server = await shared();
  const { json, ...answer } = await server.as('viewer').raw('GET', `/api/v1/events?${query}`);
  expect([answer.status, (json as { error: { code: string } }).error.code]).toEqual([status, code]);
});
let kept: Promise<TestServer> | undefined;
const shared = (): Promise<TestServer> => {
  kept ??= startTestServer();
  return kept;
};
test('bad input: a header that is no id, a caller who may not', async () => {
  await using server = await shared();
  const headers = { 'last-event-id': 'x' };
  expect((await server.as('viewer').raw('GET', '/api/v1/events', { headers })).status).toBe(400);
  expect((await server.as('anyone').raw('GET', '/api/v1/events')).status).toBe(401);
  const node = await server.enrol('web-1');
  expect((await node.raw('GET', '/api/v1/events')).status).toBe(403);
});

test('postgres: what is committed late is told in its place, and what comes after it not before', async () => {
  await using server = await startTestServer({ storage: 'postgres' });
  const { token } = await tokenFor(server);
  await using live = await readEventsFrom(server.url, token, { type: 'alert' });
  const other = new pg.Client({ connectionString: server.databaseUrl });
  await other.connect();
  const known = async (): Promise<unknown[]> => {
    await using all = await readEventsFrom(server.url, token, { from: '0', type: 'alert', follow: 'false' });
    await all.ended;
    return numbers(all);
  };
  const late = async (end: 'commit' | 'rollback', nth: number): Promise<void> => {
    await other.query('begin');
    await other.query('select pg_advisory_xact_lock_shared((1558::bigint << 52) | last_value) from events_id_seq');
    await other.query("insert into events (at, type, data) values (0, 'alert.backup.failed', $1)", [`{"nth":${nth}}`]);
    await publish(server, about(nth + 1));
    const before = await known();
    expect(before).not.toContain(nth + 1); // it has the higher id, and is not told before the other is settled
    await other.query(end);
  };
  try {
    await publish(server, about(0));
    await late('commit', 1);
    await live.wait('the two', () => numbers(live).length >= 3);
    await late('rollback', 11);
    await live.wait('the one', () => numbers(live).length >= 4);
    expect([numbers(live), await known()]).toEqual([
      [0, 1, 2, 12],
      [0, 1, 2, 12],
    ]);
  } finally {
    await other.end();
  }
});
