import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import type { Wire } from './outbox.ts';
import { opener, sealer } from './sealing.ts';
import { type Handler, type Session, session } from './session.ts';

/** Two sessions, frames carried by hand. */

const HEARTBEAT_MS = 1000;
interface Side {
  session: Session;
  ended: AegisError[];
  /** Sent and not yet carried over. */
  frames: string[];
}

const connect = (
  handlers: { node?: Record<string, Handler>; server?: Record<string, Handler> } = {},
  wires: { node?: (wire: Wire) => Wire } = {},
) => {
  const clock = { ms: 0, now: () => 1_760_000_000_000, monotonic: () => clock.ms };
  const keys = { 'node to server': randomBytes(32), 'server to node': randomBytes(32) } as const;
  let ids = 0;
  const side = (
    mine: 'node to server' | 'server to node',
    theirs: typeof mine,
    known: Record<string, Handler> = {},
    wrap: (wire: Wire) => Wire = (wire) => wire,
  ): Side => {
    const frames: string[] = [];
    const ended: AegisError[] = [];
    const one = session({
      wire: wrap({ send: (frame) => void frames.push(frame) }),
      sealer: sealer({
        key: Buffer.from(keys[mine]),
        direction: mine,
        rotation: { messages: 100, ms: 1e9 },
        clock,
        signing: null,
      }),
      opener: opener({ key: Buffer.from(keys[theirs]), direction: theirs, verifying: null }),
      handlerOf: (channel) => known[channel] ?? null,
      newId: () => `m-${ids++}`,
      clock,
      heartbeatMs: HEARTBEAT_MS,
      ended: (reason) => ended.push(reason),
    });
    return { session: one, ended, frames };
  };
  const node = side('node to server', 'server to node', handlers.node, wires.node);
  const server = side('server to node', 'node to server', handlers.server);
  /** Until nothing moves any more. */
  const settle = async (from: readonly Side[] = [node, server]): Promise<void> => {
    for (let quiet = 0; quiet < 5; quiet++) {
      await new Promise((resolve) => setImmediate(resolve));
      for (const one of from)
        for (const frame of one.frames.splice(0)) {
          (one === node ? server : node).session.take(frame);
          quiet = 0;
        }
    }
  };
  return { node, server, clock, settle };
};
const once = { timeoutMs: 60_000 };

test('requests are answered, events are taken, both ways at once', async () => {
  const seen: unknown[] = [];
  const { node, server, settle } = connect({
    node: { commands: ({ body }) => ({ did: body }) },
    server: { logs: async ({ body, type }) => void seen.push([type, body]) },
  });
  const answers = [server.session.request('commands', { run: 1 }, once), node.session.request('logs', 'ä', once)];
  const sent = node.session.notify('logs', { line: 1 });
  await settle();
  expect(await Promise.all(answers)).toEqual([{ did: { run: 1 } }, null]);
  await sent;
  expect(seen).toEqual([
    ['request', 'ä'],
    ['event', { line: 1 }],
  ]);
});

test('an error keeps its code and sentence; one from within says nothing of it; nobody listening is said', async () => {
  const { node, settle } = connect({
    server: {
      logs: () => {
        throw new AegisError('commands.offset_ahead', 'Send from 7 on.');
      },
      hello: () => {
        throw new Error('secret');
      },
    },
  });
  const asked = ['logs', 'hello', 'nobody'].map((channel) =>
    node.session.request(channel, null, once).catch((error: AegisError) => [error.code, error.message]),
  );
  await settle();
  expect(await Promise.all(asked)).toEqual([
    ['commands.offset_ahead', 'Send from 7 on.'],
    ['http.internal', 'The other side failed within. Its log says how.'],
    ['channel.no_handler', "Nobody listens on the channel 'nobody' here."],
  ]);
});

test('what is too large for a message is refused where it is said; too large an answer is told as that', async () => {
  const large = 'x'.repeat(1024 * 1024);
  const { node, settle } = connect({ server: { logs: () => large } });
  await expect(node.session.notify('logs', large)).rejects.toMatchObject({ code: 'http.too_large' });
  const asked = node.session.request('logs', 1, once).catch((error: AegisError) => error.code);
  await settle();
  expect(await asked).toBe('http.too_large');
});

test('what was refused where it is said takes no place of what can be asked', async () => {
  const { node, settle } = connect({ server: { logs: () => 'here' } });
  const large = 'x'.repeat(1024 * 1024);
  for (let times = 0; times < 300; times++)
    await expect(node.session.request('logs', large, once)).rejects.toMatchObject({ code: 'http.too_large' });
  const asked = node.session.request('logs', 1, { timeoutMs: 1000 });
  await settle();
  expect(await asked).toBe('here');
});

test('a receiver that is slow on one channel slows that one alone, and loses nothing', async () => {
  const gate = Promise.withResolvers<void>();
  const got = { logs: 0, commands: 0 };
  const { node, settle } = connect({
    server: {
      logs: async () => {
        await gate.promise;
        got.logs++;
      },
      commands: () => void got.commands++,
    },
  });
  const text = 'x'.repeat(100_000);
  let logsOut = 0;
  const logs = Array.from({ length: 100 }, () => node.session.notify('logs', text).then(() => logsOut++));
  const commands = Array.from({ length: 100 }, () => node.session.notify('commands', text));
  await settle();
  expect(logsOut).toBe(20); // 2 MiB
  expect(got).toEqual({ logs: 0, commands: 100 });
  await Promise.all(commands);
  gate.resolve();
  await settle();
  await Promise.all(logs);
  expect(got.logs).toBe(100);
});

test('a socket that takes no more slows who sends, and what is urgent goes first when it does again', async () => {
  let room = Promise.withResolvers<void>();
  const blocked: string[] = [];
  const { node, server, clock, settle } = connect(
    { server: { logs: () => null } },
    {
      node: (wire) => ({
        send: async (frame) => {
          blocked.push(frame);
          await room.promise;
          await wire.send(frame);
        },
      }),
    },
  );
  const sent = [1, 2, 3].map((nth) => node.session.notify('logs', nth));
  clock.ms = HEARTBEAT_MS;
  node.session.tick();
  await settle();
  expect(blocked).toHaveLength(1);
  room.resolve();
  room = Promise.withResolvers<void>();
  room.resolve();
  await settle();
  await Promise.all(sent);
  expect(blocked.map((frame) => (JSON.parse(frame) as { channel: string }).channel)).toEqual([
    'logs',
    'heartbeat',
    'logs',
    'logs',
  ]);
  expect(server.ended).toEqual([]);
});

test('silence ends a session, a sign of life keeps it', async () => {
  const { node, server, clock, settle } = connect();
  for (let beat = 0; beat < 10; beat++) {
    clock.ms += HEARTBEAT_MS;
    node.session.tick();
    server.session.tick();
    await settle();
  }
  expect([node.ended, server.ended]).toEqual([[], []]);
  const asked = node.session.request('logs', 1, once).catch((error: AegisError) => error.code);
  clock.ms += 2 * HEARTBEAT_MS + 1;
  node.session.tick();
  expect(node.ended.map(({ code }) => code)).toEqual(['http.unavailable']);
  expect(await asked).toBe('http.unavailable');
  await expect(node.session.notify('logs', 1)).rejects.toMatchObject({ code: 'http.unavailable' });
  node.session.end(new AegisError('http.unavailable', 'again'));
  expect(node.ended).toHaveLength(1);
});

test('bytes of a frame that takes its time on a slow way are a sign of life', () => {
  const { node, clock } = connect();
  for (let part = 0; part < 10; part++) {
    clock.ms += HEARTBEAT_MS;
    node.session.heard();
    node.session.tick();
  }
  expect(node.ended).toEqual([]);
  clock.ms += 2 * HEARTBEAT_MS + 1;
  node.session.tick();
  expect(node.ended).toHaveLength(1);
});

test('no more requests are under way than the other side takes; the others wait their turn, or give up', async () => {
  const gate = Promise.withResolvers<void>();
  let most = 0;
  let now = 0;
  const { node, server, settle } = connect({
    server: {
      commands: async () => {
        most = Math.max(most, ++now);
        await gate.promise;
        now--;
      },
    },
  });
  const asked = Array.from({ length: 600 }, () => node.session.request('commands', null, once));
  const impatient = node.session
    .request('commands', null, { timeoutMs: 60_000, signal: AbortSignal.timeout(1) })
    .catch(() => 'gave up');
  await settle();
  expect(await impatient).toBe('gave up');
  expect(most).toBe(256);
  gate.resolve();
  await settle();
  await Promise.all(asked);
  expect(server.ended).toEqual([]);
});

describe('another side that does not keep to it', () => {
  const spoken = (act: (raw: ReturnType<typeof sealer>) => string[]) => {
    const key = randomBytes(32);
    const clock = { now: () => 0, monotonic: () => 0 };
    const frames: string[] = [];
    const ended: AegisError[] = [];
    const one = session({
      wire: { send: (frame) => void frames.push(frame) },
      sealer: sealer({
        key: randomBytes(32),
        direction: 'server to node',
        rotation: { messages: 10, ms: 1e9 },
        clock,
        signing: null,
      }),
      opener: opener({ key: Buffer.from(key), direction: 'node to server', verifying: null }),
      handlerOf: (channel) => (channel === 'slow' ? () => new Promise(() => undefined) : null),
      newId: () => 'id',
      clock,
      heartbeatMs: HEARTBEAT_MS,
      ended: (reason) => ended.push(reason),
    });
    const raw = sealer({
      key: Buffer.from(key),
      direction: 'node to server',
      rotation: { messages: 1e6, ms: 1e9 },
      clock,
      signing: null,
    });
    for (const frame of act(raw)) one.take(frame);
    return ended.map(({ code }) => code);
  };
  const cases: Record<string, [(raw: ReturnType<typeof sealer>) => string[], string[]]> = {
    'an answer to nothing': [
      (raw) => [raw.seal({ id: 'a', type: 'response', channel: 'logs' }, '{"in_reply_to":"x"}')],
      ['channel.bad_frame'],
    ],
    'no JSON inside': [(raw) => [raw.seal({ id: 'a', type: 'event', channel: 'logs' }, '{')], ['channel.bad_frame']],
    'credit that is none': [
      (raw) => [raw.seal({ id: 'a', type: 'event', channel: 'heartbeat' }, '{"credit":{"logs":-1}}')],
      ['channel.bad_frame'],
    ],
    'credit for what was never sent': [
      (raw) => [raw.seal({ id: 'a', type: 'event', channel: 'heartbeat' }, '{"credit":{"logs":1000000}}')],
      [],
    ],
    'more channels than anybody needs': [
      (raw) => Array.from({ length: 70 }, (_, nth) => raw.seal({ id: 'a', type: 'event', channel: `c${nth}` }, 'null')),
      ['channel.bad_frame'],
    ],
    'more requests than may be': [
      (raw) =>
        Array.from({ length: 300 }, (_, nth) => raw.seal({ id: `r-${nth}`, type: 'request', channel: 'slow' }, 'null')),
      ['channel.bad_frame'],
    ],
    'more bytes than there is credit for': [
      (raw) =>
        Array.from({ length: 5 }, (_, nth) =>
          raw.seal({ id: `r-${nth}`, type: 'event', channel: 'slow' }, `"${'x'.repeat(700_000)}"`),
        ),
      ['channel.bad_frame'],
    ],
  };
  test.each(Object.entries(cases))('%s', (_, [act, wanted]) => {
    expect(spoken(act)).toEqual(wanted);
  });
});
