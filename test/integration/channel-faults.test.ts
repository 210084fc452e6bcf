import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startBadLink } from '../faults/bad-link.ts';
import { waitFor } from '../faults/wait.ts';
import { memoryOf } from '../fleet/memory.ts';
import { type RelayedFleet, startRelayedFleet } from '../fleet/relayed-fleet.ts';

/** Commands over the channel while the network does its worst, a node for each fault: every start once, every byte once. A heartbeat each
 *  second, so that silence is found out soon; a new key after each 25 messages. Under AEGIS_LONG, test/long/channel.test.ts. */

let stage: RelayedFleet;
beforeAll(async () => {
  stage = await startRelayedFleet({ AEGIS_CHANNEL_HEARTBEAT_SEC: '1', AEGIS_CHANNEL_ROTATION_MESSAGES: '25' });
});
afterAll(() => stage?.[Symbol.asyncDispose]());

/** Again and again until disposed. */
const each = (ms: number, act: () => void): Disposable => {
  const timer = setInterval(act, ms);
  return { [Symbol.dispose]: () => clearInterval(timer) };
};

describe.concurrent('over a channel', () => {
  test('that nothing disturbs', async () => {
    const node = await stage.node('calm', { carrier: 'ws' });
    await node.up();
    expect(await node.jobs('quick', 'silent', 'dripping', 'bursting', 'quick')).toEqual([]);
    expect([node.relay.channels(), node.relay.opened()]).toEqual([1, 1]);
  }, 120_000);

  test('that is cut every second', async () => {
    const node = await stage.node('cut');
    await node.up();
    using _cutting = each(1000, () => {
      node.relay.cut();
      node.relay.mend();
    });
    expect(await node.jobs('dripping', 'bursting', 'silent', 'quick')).toEqual([]);
    expect(node.relay.opened()).toBeGreaterThan(1);
  }, 120_000);

  test('on which each piece is late, by another time each', async () => {
    const node = await stage.node('late', { carrier: 'ws' });
    node.relay.delay(100, 300);
    await node.up();
    expect(await node.jobs('dripping', 'page', 'quick')).toEqual([]);
  }, 120_000);

  test('whose connection stalls and is reset', async () => {
    const node = await stage.node('lossy');
    await node.up();
    node.relay.lose({ stalls: 0.1, resets: 0.02 });
    expect(await node.jobs('dripping', 'bursting', 'silent', 'quick')).toEqual([]);
  }, 120_000);

  test('of a kibibyte a second, with messages that take longer than a heartbeat may', async () => {
    const node = await stage.node('narrow', { carrier: 'ws' });
    await node.up();
    const before = node.relay.opened();
    node.relay.throttle(1024);
    expect(await node.jobs('page')).toEqual([]);
    expect(node.relay.opened()).toBe(before);
  }, 180_000);

  test('that is half-open, again and again', async () => {
    const node = await stage.node('frozen', { carrier: 'ws' });
    await node.up();
    const jobs = node.jobs('dripping', 'silent', 'quick');
    for (let times = 0; times < 2; times++) {
      await node.up();
      node.relay.freeze();
    }
    expect(await jobs).toEqual([]);
    await node.up();
    expect(node.relay.opened()).toBeGreaterThan(2);
  }, 120_000);

  test('that goes and comes back every few seconds: polls, channel, polls', async () => {
    const node = await stage.node('switching');
    await node.up();
    const jobs = node.jobs('dripping', 'bursting', 'dripping');
    for (let times = 0; times < 3; times++) {
      node.relay.blockChannels(true);
      await sleep(1000);
      node.relay.blockChannels(false);
      await node.up();
    }
    expect(await jobs).toEqual([]);
    expect(node.relay.opened()).toBeGreaterThan(3);
  }, 120_000);

  test('whose packets are lost, doubled, late and out of order', async () => {
    await using link = await startBadLink(Number(new URL(stage.fleet.url).port), {
      loss: 0.03,
      duplicate: 0.05,
      reorder: 0.1,
      delay_ms: 15,
    });
    const node = await stage.node('packets', { carrier: 'ws', way: link });
    await node.up();
    expect(await node.jobs('dripping', 'bursting', 'quick')).toEqual([]);
    await node.daemon.stop();
    const { lost, duplicated, reordered } = await link.end();
    expect(Math.min(lost, duplicated, reordered)).toBeGreaterThan(10);
  }, 120_000);
});

test('the server dies in the middle of it and comes back, and then a daemon', async () => {
  const calm = await stage.node('mourning', { carrier: 'ws' });
  const polling = await stage.node('polling', { carrier: 'poll' });
  await calm.up();
  const jobs = [calm, polling].map((node) => node.jobs('dripping', 'bursting', 'quick'));
  await sleep(500);
  await stage.fleet.server.kill9();
  await stage.fleet.server.start();
  jobs.push(calm.jobs('quick', 'silent'));
  await calm.daemon.kill9();
  await calm.daemon.start();
  expect((await Promise.all(jobs)).flat()).toEqual([]);
  await calm.up();
}, 120_000);

/** Sockets that ask for a channel and say nothing more, from six addresses. @returns how each was answered */
const flood = async (url: string, count: number): Promise<{ sockets: Socket[]; statuses: string[] }> => {
  const { port } = new URL(url);
  const statuses: string[] = [];
  const head = [
    'GET /ws/agent HTTP/1.1',
    'Host: flood',
    'Upgrade: websocket',
    'Connection: Upgrade',
    'Sec-WebSocket-Version: 13',
    `Sec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}`,
    'X-Agent-ID: nobody',
    `X-Agent-Public-Key: ${Buffer.alloc(32).toString('base64')}`,
  ];
  const sockets = Array.from({ length: count }, (_, nth) => {
    const socket = connect({ port: Number(port), host: '127.0.0.1', localAddress: `127.0.0.${11 + (nth % 6)}` });
    socket.on('error', () => undefined);
    socket.once('data', (data) => statuses.push(data.toString('latin1').slice(9, 12)));
    socket.write(`${head.join('\r\n')}\r\n\r\n`);
    return socket;
  });
  await waitFor(
    'every socket to be answered',
    () => statuses.length === count,
    30_000,
    () => `${statuses.length}`,
  );
  return { sockets, statuses };
};

test('thousands of sockets that never authenticate: no memory to speak of, and both who is there and who comes are served', async () => {
  const { server, url } = stage.fleet;
  const there = await stage.node('there', { carrier: 'ws' });
  await there.up();
  const before = memoryOf(server.pid).residentMb;
  const { sockets, statuses } = await flood(url, 3000);
  expect(statuses.filter((status) => status === '101').length).toBeLessThanOrEqual(1000);
  expect(statuses.filter((status) => !['101', '429', '503'].includes(status))).toEqual([]);
  const comes = await stage.node('comes');
  expect([await there.jobs('quick', 'silent'), await comes.jobs('quick')]).toEqual([[], []]);
  expect(memoryOf(server.pid).residentMb - before).toBeLessThan(100);
  for (const socket of sockets) socket.destroy();
  await Promise.all([there.up(), comes.up()]);
}, 120_000);
