import { expect, test } from 'vitest';
import { waitFor } from '../../../../test/faults/wait.ts';
import { startRedis } from '../../../../test/fleet/redis.ts';
import { startPostgres } from '../../test/postgres.ts';
import { freshDatabase } from '../../test/shared-postgres.ts';
import { redisLink } from './bus-redis.ts';
import { messagesOf, type OpenLink, SHARED_BUS_TIMES, sharedBus } from './bus-shared.ts';
import { silentLog } from './log.ts';
import { postgresLink } from './storage/postgres-listen.ts';

const NEVER_MS = 3_600_000;
/** Nothing but the link wakes. */
const LINK_ALONE = { ...SHARED_BUS_TIMES, sweepMs: NEVER_MS, brokenSweepMs: NEVER_MS };

const busOn = async (openLink: OpenLink, times = LINK_ALONE) => {
  const bus = sharedBus({ openLink, random: Math.random, log: silentLog(), times });
  await bus.ready;
  return bus;
};

const counted = () => {
  const counts = new Map<string, number>();
  return {
    of: (topic: string) => counts.get(topic) ?? 0,
    on: (topic: string) => () => void counts.set(topic, (counts.get(topic) ?? 0) + 1),
  };
};

test('messages hold every topic once, each below what PostgreSQL takes', () => {
  const topics = Array.from({ length: 5000 }, (_, at) => `output:${String(at).padStart(36, '0')}`);
  const messages = messagesOf('0123456789abcdef', topics);
  expect(messages.every((message) => Buffer.byteLength(message) < 7950)).toBe(true);
  expect(messages.flatMap((message) => message.split('\n').slice(1))).toEqual(topics);
  expect(new Set(messages.map((message) => message.split('\n')[0]))).toEqual(new Set(['0123456789abcdef']));
});

for (const kind of ['postgres', 'redis'] as const)
  test(`${kind}: each topic reaches the other processes, and none comes back as one's own`, async () => {
    await using stack = new AsyncDisposableStack();
    let openLink: OpenLink;
    if (kind === 'postgres') openLink = postgresLink(await freshDatabase());
    else openLink = redisLink(stack.use(await startRedis()).url, 'aegis:test');
    const [one, other] = [stack.use(await busOn(openLink)), stack.use(await busOn(openLink))];
    expect([one.linked(), other.linked()]).toEqual([true, true]);
    const topics = Array.from({ length: 9000 }, (_, at) => `node:${String(at).padStart(36, '0')}`);
    const [here, there] = [counted(), counted()];
    for (const topic of topics) {
      one.subscribe(topic, here.on(topic));
      other.subscribe(topic, there.on(topic));
    }
    const remote: (string | null)[] = [];
    one.onRemote('node', () => remote.push('never'));
    const heard: (string | null)[] = [];
    other.onRemote('node', (rest) => heard.push(rest));
    for (const topic of topics) for (let time = 0; time < 3; time++) one.publish(topic);
    await waitFor('all to be heard', () => topics.every((topic) => there.of(topic) > 0));
    expect(topics.every((topic) => here.of(topic) >= 3)).toBe(true); // the round at the link's opening may have woken some as well
    expect(heard.filter((rest) => rest !== null).sort()).toEqual(topics.map((topic) => topic.slice(5)));
    expect(remote).toEqual([]);
  });

test('postgres: what is published while it is restarted arrives, and everything that is subscribed is woken', async () => {
  await using cluster = await startPostgres();
  const openLink = postgresLink(await cluster.createDatabase());
  await using one = await busOn(openLink);
  await using other = await busOn(openLink);
  const woken = counted();
  other.subscribe('command:a', woken.on('a'));
  other.subscribe('command:never-published', woken.on('never'));
  const restarted = cluster.restart();
  await waitFor('both to notice', () => !one.linked() && !other.linked());
  // Either it comes once both are back, or the other comes back after it was sent: then it may have missed anything.
  const heard: (string | null)[] = [];
  other.onRemote('command', (rest) => heard.push(rest));
  const [a, never] = [woken.of('a'), woken.of('never')];
  one.publish('command:a');
  await restarted;
  // What was published may come in the moment between the other's listening and its waking of everything.
  await waitFor('the wake-ups', () => heard.includes(null) && woken.of('a') > a && woken.of('never') > never);
  expect(heard.filter((rest) => rest !== null && rest !== 'a')).toEqual([]);
});

test('redis: killed and started again, nothing stays asleep; meanwhile everything is woken slowly', async () => {
  await using redis = await startRedis();
  const openLink = redisLink(redis.url, 'aegis:test');
  const times = { ...LINK_ALONE, brokenSweepMs: 50 };
  await using one = await busOn(openLink, times);
  await using other = await busOn(openLink, times);
  const woken = counted();
  other.subscribe('output:x', woken.on('x'));
  await redis.kill();
  await waitFor('both to notice', () => !one.linked() && !other.linked());
  one.publish('output:x');
  const before = woken.of('x');
  await waitFor('a wake-up without Redis', () => woken.of('x') > before);
  const heard: (string | null)[] = [];
  other.onRemote('output', (rest) => heard.push(rest));
  await redis.start();
  await waitFor('both to be back', () => one.linked() && other.linked() && heard.includes(null));
  one.publish('output:x');
  await waitFor('what was published to arrive', () => heard.includes('x'));
});

test('a server starts without its Redis, and hears of it later', async () => {
  await using redis = await startRedis();
  await redis.kill();
  const said: unknown[] = [];
  const log = { ...silentLog(), warn: (...args: unknown[]) => void said.push(args) };
  await using bus = sharedBus({
    openLink: redisLink(redis.url, 'aegis:test'),
    random: Math.random,
    log: log as ReturnType<typeof silentLog>,
    times: LINK_ALONE,
  });
  await bus.ready;
  expect(bus.linked()).toBe(false);
  expect(JSON.stringify(said)).toContain('ECONNREFUSED');
  expect(JSON.stringify(said)).not.toContain(redis.password);
  await redis.start();
  await waitFor('the link', () => bus.linked());
});

test('a link that says nothing any more is given up, also when it takes what is sent', async () => {
  let opened = 0;
  const deaf: OpenLink = async () => {
    opened++;
    return { send: async () => undefined, close: async () => undefined };
  };
  await using _bus = await busOn(deaf, { ...LINK_ALONE, beatMs: 20, retryMs: 20 });
  await waitFor('another link', () => opened > 2);
});

test('more topics than may wait become one message that wakes everything', async () => {
  const sent: string[] = [];
  const gate = Promise.withResolvers<void>();
  const slow: OpenLink = async () => {
    await gate.promise;
    return { send: async (messages) => void sent.push(...messages), close: async () => undefined };
  };
  const bus = sharedBus({ openLink: slow, random: Math.random, log: silentLog(), times: LINK_ALONE });
  for (let at = 0; at < 30_000; at++) bus.publish(`output:${at}`);
  gate.resolve();
  await bus.ready;
  await waitFor('it to be sent', () => sent.length > 0);
  await bus[Symbol.asyncDispose]();
  expect(sent.map((message) => message.split('\n').slice(1))).toEqual([['*']]);
});
