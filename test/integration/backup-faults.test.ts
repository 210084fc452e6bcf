import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { differences, snapshot } from '../../packages/archive/test/tree-compare.ts';
import { seededRandom } from '../faults/bad-network.ts';
import {
  type HostileS3,
  INTERNAL_ERROR,
  type Misbehaviour,
  type SeenRequest,
  SLOW_DOWN,
  startHostileS3,
} from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { type BackupFleet, startBackupFleet } from '../fleet/backup-fleet.ts';
import { faultsIn } from '../fleet/database.ts';

/** Faults while a backup is made, by the real CLI, server, daemon and S3 server. Whatever happens, a run that calls itself completed verifies
 *  and restores to the tree that was there, and any other says why it failed; nothing of it is left in the bucket's uploads or the spool. */

const SEED = Number(process.env.AEGIS_SEED ?? 20261121);
const MIB = 1024 * 1024;

let on: BackupFleet;
const proxies: HostileS3[] = [];
beforeAll(async () => {
  on = await startBackupFleet({ seed: SEED }, { AEGIS_BACKUPS_RETRY_SEC: '3' });
}, 120_000);
afterAll(async () => {
  for (const proxy of proxies) await proxy[Symbol.asyncDispose]();
  await on?.[Symbol.asyncDispose]();
});

const own = async (): Promise<HostileS3> => {
  const proxy = await startHostileS3(on.s3.endpoint);
  proxies.push(proxy);
  return proxy;
};
const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');
const isWrite = ({ method }: SeenRequest): boolean => method === 'PUT';
const whole = { found: [] as string[], states: ['completed'] };
const judged = async (name: string, source: string) => ({
  found: await on.faults(name, source),
  states: (await on.runs(name)).map(({ state }) => state),
});

// Those of one `describe` have configurations and proxies of their own, and run at the same time.
describe('a backup to an S3 server that misbehaves', () => {
  test.concurrent('each answer of S3 that can go wrong once, in one run, one after the other', async () => {
    const proxy = await own();
    const source = on.plant('once', 23);
    await on.configure('once', { sources: [source], endpoint: proxy.url });
    const once: Misbehaviour[] = [
      INTERNAL_ERROR,
      SLOW_DOWN,
      'reset',
      'truncate-request',
      'lose-answer',
      'wrong-etag',
      'hang',
    ];
    // One for each of as many requests; what is sent again goes well.
    let nth = 0;
    const hit = new Set<string>();
    for (const how of once)
      proxy.misbehave(
        how,
        (ask) => {
          const key = `${ask.path}?${ask.query.get('partNumber') ?? ''}`;
          if (!isWrite(ask) || hit.has(key) || once[nth] !== how) return false;
          nth++;
          hit.add(key);
          return true;
        },
        1,
      );
    await on.begin('once');
    await on.over('once');
    expect(nth).toBe(once.length);
    expect(await judged('once', source)).toEqual(whole);
  }, 120_000);

  test.concurrent('an S3 server that misbehaves for good: each run says that it failed, and why', async () => {
    const always: [string, Misbehaviour, (ask: SeenRequest) => boolean][] = [
      ['all-500', INTERNAL_ERROR, () => true],
      ['all-slow-down', SLOW_DOWN, () => true],
      ['all-hang', 'hang', () => true],
      ['all-reset', 'reset', () => true],
      ['writes-truncated', 'truncate-request', isWrite],
      ['answers-truncated', 'truncate-answer', () => true],
      ['parts-wrong-etag', 'wrong-etag', isPart],
      ['all-wrong-etag', 'wrong-etag', () => true],
      ['writes-lost', 'lose-answer', isWrite],
    ];
    const source = on.plant('always', 7);
    const bad = await Promise.all(
      always.map(async ([name, how, which]) => {
        const proxy = await own();
        await on.configure(name, {
          sources: [source],
          endpoint: proxy.url,
          spec: { retries: { max: 0 }, limits: { run_sec: 60 } },
        });
        proxy.misbehave(how, which);
        return proxy;
      }),
    );
    await Promise.all(always.map(([name]) => on.begin(name)));
    const outcomes: Record<string, unknown> = {};
    for (const [name] of always) {
      const [run] = await on.over(name);
      outcomes[name] = run?.state === 'failed' ? run.reason?.code : run?.state;
    }
    for (const proxy of bad) proxy.mend();
    expect(outcomes).toEqual({
      ...Object.fromEntries(always.map(([name]) => [name, 'backups.destination_failed'])),
      'parts-wrong-etag': 'backups.upload_mismatch',
      'all-wrong-etag': 'backups.upload_mismatch',
    });
  }, 240_000);
});

describe('a restore from an S3 server that misbehaves', () => {
  const isRead = ({ method }: SeenRequest): boolean => method === 'GET';
  /** A good run, behind a proxy of its own. */
  const backedUp = async (name: string) => {
    const proxy = await own();
    const source = on.plant(name, 12);
    await on.configure(name, { sources: [source], endpoint: proxy.url });
    await on.begin(name);
    const run = (await on.over(name))[0]?.run_id ?? '';
    const restore = async (where: string, ...more: string[]) => {
      const target = join(on.fleet.folder, `to-${where}`);
      return { target, ...(await on.tryAegis('backups', 'restore', run, '--target', target, ...more)) };
    };
    return { proxy, source, restore };
  };

  test.concurrent.each([
    ['here', []],
    ['on the node', ['--node', 'web-1']],
  ])(
    'once for each request: all of it is restored %s',
    async (where, more) => {
      const name = where.replaceAll(' ', '-');
      const { proxy, source, restore } = await backedUp(name);
      const kinds: Misbehaviour[] = [INTERNAL_ERROR, 'reset', SLOW_DOWN, 'truncate-answer', 'wrong-etag'];
      if (where !== 'here') kinds.push('hang'); // that takes a minute, as nobody sets it there
      const hit = new Set<string>();
      let nth = 0;
      for (const how of kinds)
        proxy.misbehave(how, (ask) => {
          const key = `${ask.path} ${ask.headers.range}`;
          if (!isRead(ask) || hit.has(key) || kinds[nth % kinds.length] !== how) return false;
          nth++;
          hit.add(key);
          return true;
        });
      const { target, status, stdout, stderr } = await restore(name, ...more);
      expect([status, stdout, stderr]).toEqual([0, stdout, stderr]);
      expect(nth).toBeGreaterThan(3);
      expect(differences(snapshot(source), snapshot(join(target, source)))).toEqual([]);
    },
    120_000,
  );

  test.concurrent('for good: it fails and says so, and whatever is there is what was backed up', async () => {
    const { proxy, restore } = await backedUp('for-good');
    const kinds: [string, Misbehaviour, RegExp][] = [
      ['truncated', 'truncate-answer', /The storage of this backup does not give it/],
      ['altered', 'alter-answer', /damaged or was altered/],
    ];
    // Each of these is six tries, with pauses between them, as well.
    if (process.env.AEGIS_LONG)
      kinds.push(
        ['500', INTERNAL_ERROR, /answers 500/],
        ['slow-down', SLOW_DOWN, /answers 503/],
        ['reset', 'reset', /ECONNRESET/],
      );
    const isArchive = (ask: SeenRequest): boolean => isRead(ask) && ask.path.includes('archive');
    for (const [kind, how, why] of kinds) {
      proxy.misbehave(how, isArchive);
      const { target, status, stderr } = await restore(kind);
      proxy.mend();
      const there = existsSync(target)
        ? readdirSync(target, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
        : [];
      const wrong = there
        .map(({ parentPath, name }) => join(parentPath, name))
        .filter((path) => !readFileSync(path).equals(readFileSync(path.slice(target.length))));
      expect([kind, status === 0, wrong]).toEqual([kind, false, []]);
      expect(stderr).toMatch(why);
    }
  }, 180_000);
});

describe('killed at random moments of a run', () => {
  const slow = { bandwidth: { upload: 6 * MIB } };
  const kills: [string, ('daemon' | 'server')[], number][] = [
    ['the daemon', ['daemon'], 1],
    ['the server', ['server'], 2],
    ['both', ['daemon', 'server'], 2],
  ];
  test.each(kills)(
    '%s',
    async (who, victims, times) => {
      const random = seededRandom(SEED + times);
      const name = who.replace('the ', 'kill-');
      const source = on.plant(name, 12);
      await on.configure(name, { sources: [source], spec: slow });
      await on.begin(name);
      for (let nth = 0; nth < times; nth++) {
        await sleep(random() * 900); // at random: the point of the exercise, not synchronisation
        const victim = victims[Math.floor(random() * victims.length)];
        const process = victim === 'server' ? on.fleet.server : on.fleet.nodes[0]?.daemon;
        await process?.kill9();
        await process?.start();
      }
      await on.over(name);
      expect(await judged(name, source)).toEqual(whole);
    },
    180_000,
  );
});

test('the network to the server, and that to S3, cut in the middle of a run', async () => {
  for (const which of ['server', 's3']) {
    const name = `cut-${which}`;
    const source = on.plant(name, 12);
    await on.configure(name, {
      sources: [source],
      spec: { bandwidth: { upload: 6 * MIB }, retries: { max: 5, backoff_sec: 1 } },
    });
    const parts = on.proxy.seen.filter(isPart).length;
    await on.begin(name);
    await waitFor('a part', () => on.proxy.seen.filter(isPart).length > parts);
    const net = which === 's3' ? on.proxy : on.fleet.network;
    net.cut();
    await sleep(2000); // a minute of it: test/long/backup-cuts
    net.mend();
    await on.over(name);
    expect([name, await judged(name, source)]).toEqual([name, whole]);
  }
}, 180_000);

test('nothing is left: no upload in the bucket once it was swept, nothing in the spool', async () => {
  await waitFor(
    'the spools to be empty',
    () => on.spooled().length === 0,
    30_000,
    () => on.spooled().join('\n'),
  );
  await waitFor('no upload to be left', async () => (await on.openUploads()).length === 0, 40_000);
  expect(faultsIn(join(on.fleet.folder, 'server'))).toEqual([]);
}, 90_000);
