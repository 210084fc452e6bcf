import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type RelayedFleet, startRelayedFleet } from '../fleet/relayed-fleet.ts';

/** What channel-faults.test.ts tries in seconds, for minutes, with the heartbeat that a fleet has by default: for `bin/test --long`. */

const MINUTE_MS = 60_000;

let stage: RelayedFleet;
beforeAll(async () => {
  stage = await startRelayedFleet({ AEGIS_CHANNEL_ROTATION_MESSAGES: '100' });
});
afterAll(() => stage?.[Symbol.asyncDispose]());

const rounds = async (ms: number, act: () => Promise<void>): Promise<void> => {
  const until = performance.now() + ms;
  while (performance.now() < until) await act();
};

describe.concurrent('for minutes, over a channel', () => {
  test('that is half-open, and so is whatever comes in its place', async () => {
    const node = await stage.node('frozen');
    await node.up();
    const jobs = node.jobs('dripping', 'bursting', 'silent', 'quick');
    node.relay.stall(true);
    await sleep(3 * MINUTE_MS);
    node.relay.stall(false);
    expect(await jobs).toEqual([]);
    await node.up();
  }, 600_000);

  test('of a kibibyte a second, with more output than goes in one message there', async () => {
    const node = await stage.node('narrow', { carrier: 'ws' });
    await node.up();
    node.relay.throttle(1024);
    expect(await node.jobs('chapter')).toEqual([]);
  }, 900_000);

  test('of a kibibyte a second, by polls', async () => {
    const node = await stage.node('narrow-polls', { carrier: 'poll' });
    node.relay.throttle(1024);
    expect(await node.jobs('chapter')).toEqual([]);
  }, 900_000);

  test('that is cut every second', async () => {
    const node = await stage.node('cut');
    await rounds(3 * MINUTE_MS, async () => {
      const jobs = node.jobs('dripping', 'bursting', 'quick');
      for (let times = 0; times < 5; times++) {
        await sleep(1000);
        node.relay.cut();
        node.relay.mend();
      }
      expect(await jobs).toEqual([]);
    });
  }, 600_000);

  test('that comes and goes, stalls, is late and is reset, all at once', async () => {
    const node = await stage.node('everything');
    node.relay.delay(20, 100);
    node.relay.lose({ stalls: 0.05, resets: 0.01 });
    await rounds(3 * MINUTE_MS, async () => {
      const jobs = node.jobs('dripping', 'page', 'quick', 'silent');
      node.relay.blockChannels(true);
      await sleep(1500);
      node.relay.blockChannels(false);
      expect(await jobs).toEqual([]);
    });
  }, 600_000);
});
