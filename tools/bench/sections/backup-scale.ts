import { setTimeout as sleep } from 'node:timers/promises';
import { startFleet } from '../../../test/fleet/fleet.ts';
import { startRadosgw } from '../../../test/fleet/radosgw.ts';
import { OPEN_RATES, type Operator, operatorOf, wallClockMs } from '../bench-fleet.ts';
import { atLeast, atMost, type Figure, figure } from '../figure.ts';
import { cpuMs } from '../proc.ts';
import { type Section, times } from '../section.ts';
import type { BackedUp } from '../simulated-backups.ts';
import { startSimulators } from '../simulator-process.ts';

/** A thousand nodes whose schedules fall on the same minute. Server, SQLite, enrolment, requests, signatures and S3's answers to the server are
 *  real; the nodes neither scan nor pack. One of ten has the server open a multipart upload and stores three small objects, and so completes;
 *  the others say that they failed, for what they would have uploaded is not there. */

const STORES_EACH = 10;
const PER_BATCH = 16;
const LISTING_EACH_MS = 50;
const PATHS = ['/api/v1/backups/runs?limit=100', '/api/v1/agents?limit=100'];

/** How long an operator waits for listings while `work` goes on. */
const listingsDuring = async <T>(operator: Operator, work: Promise<T>): Promise<{ done: T; waits: number[] }> => {
  const waits: number[] = [];
  let over = false;
  const ended = work.finally(() => {
    over = true;
  });
  ended.catch(() => undefined); // awaited below
  for (let nth = 0; !over; nth++) {
    const before = performance.now();
    await operator.ask('GET', PATHS[nth % PATHS.length] ?? '');
    waits.push(performance.now() - before);
    await sleep(LISTING_EACH_MS);
  }
  return { done: await ended, waits };
};

export const backupScale: Section = {
  name: 'backup-scale',
  what: 'a thousand nodes that back up on the same minute, simulated but for what the server does',
  run: async (context) => {
    const nodes = times(context, 1000, 100);
    const jitterSec = times(context, 30, 5);
    await using s3 = await startRadosgw();
    await using fleet = await startFleet({
      startDaemons: false,
      env: {
        ...OPEN_RATES,
        AEGIS_RATE_LIMITS_ENROLMENT_BURST: '1000000',
        AEGIS_RATE_LIMITS_ENROLMENT_PER_SEC: '1000000',
        AEGIS_RATE_LIMITS_ENROLMENT_PENDING: '10000',
        AEGIS_LOG_LEVEL: 'warn',
      },
    });
    const operator = operatorOf(fleet.url, fleet.token);
    try {
      const { join_token } = await operator.ask<{ join_token: string }>('POST', '/api/v1/join-tokens', { uses: nodes });
      context.say(`enrolling ${nodes} nodes`);
      const names = Array.from({ length: nodes }, (_, index) => `sim-${index + 1}`);
      await using simulators = await startSimulators(fleet.url, join_token, names, 2);
      const destination = { kind: 's3', bucket: await s3.bucket(), endpoint: s3.endpoint, path_style: true };
      const spec = { sources: ['/srv'], destination, nodes: ['all'] };
      const credentials = { access_key_id: s3.accessKey, secret_access_key: s3.secretKey };
      const configured = async (name: string, schedule: object): Promise<string> =>
        (
          await operator.ask<{ config: { config_id: string } }>('POST', '/api/v1/backups/configs', {
            spec: { ...spec, name, schedule },
            credentials,
          })
        ).config.config_id;
      const server = fleet.server.pid ?? 0;
      const round = async (configId: string, jitter: number, batches: number, perBatch: number) => {
        const atMs = wallClockMs() + times(context, 10_000, 2000);
        const cpuBefore = cpuMs(server);
        const plan = { configId, atMs, jitterSec: jitter, batches, perBatch, storesEach: STORES_EACH };
        const { done, waits } = await listingsDuring(operator, simulators.backUp(plan));
        const cores = (cpuMs(server) - cpuBefore) / (wallClockMs() - atMs);
        return { runs: done, waits, cores };
      };

      context.say(`${nodes} runs within ${jitterSec} s of the same minute`);
      const schedule = { cron: '0 3 * * *', jitter_sec: jitterSec };
      const spread = await round(await configured('spread', schedule), jitterSec, 2, PER_BATCH);
      context.say(`${nodes} runs at the same moment`);
      const atOnceConfig = await configured('at-once', { cron: '0 3 * * *' });
      const rates: number[] = [];
      const single: number[] = [];
      const waits: number[] = [];
      let cores = 0;
      for (let nth = 0; nth < times(context, 3, 1); nth++) {
        const batched = await round(atOnceConfig, 0, 4, PER_BATCH);
        rates.push(rateOf(batched.runs));
        waits.push(...batched.waits);
        cores = batched.cores;
        single.push(rateOf((await round(atOnceConfig, 0, 16, 1)).runs));
      }
      await allOver(operator, nodes, (name) => context.say(name));
      return [
        ...spreadFigures(spread, nodes, jitterSec),
        figure('backup-scale', {
          name: `requests signed, ${PER_BATCH} in a batch, ${nodes} nodes at once`,
          unit: '/s',
          samples: rates,
          bar: atLeast(2000, 'median'),
          note: `from the first node's first batch to the last node's last, starts and ends of other runs between; server busy ${cores.toFixed(2)} cores`,
        }),
        figure('backup-scale', {
          name: `requests signed one by one, ${nodes} nodes at once`,
          unit: '/s',
          samples: single,
          note: 'as a daemon asks today: one HTTP request for each part',
        }),
        figure('backup-scale', {
          name: `an operator's listing while ${nodes} nodes start, sign and end at once`,
          unit: 'ms',
          samples: waits,
          note: 'runs and nodes by turns; without any jitter',
        }),
      ];
    } finally {
      await operator.close();
    }
  },
};

const spreadFigures = ({ runs, waits, cores }: Round, nodes: number, jitterSec: number): Figure[] => {
  const first = Math.min(...runs.map(({ startedAtMs }) => startedAtMs));
  const perSecond = new Map<number, number>();
  for (const { startedAtMs } of runs) {
    const second = Math.floor((startedAtMs - first) / 1000);
    perSecond.set(second, (perSecond.get(second) ?? 0) + 1);
  }
  return [
    figure('backup-scale', {
      name: `starts in one second, ${nodes} nodes on one minute with ${jitterSec} s of jitter`,
      unit: '/s',
      samples: [...perSecond.values()],
      bar: atMost((2 * nodes) / jitterSec, 'max'),
      note: `by the daemon's own function; ${Math.round(nodes / jitterSec)} if it were even`,
    }),
    figure('backup-scale', {
      name: "an operator's listing meanwhile",
      unit: 'ms',
      samples: waits,
      bar: atMost(250, 'p99'),
      note: `runs and nodes by turns; server busy ${cores.toFixed(2)} cores`,
    }),
    figure('backup-scale', {
      name: 'a run is granted',
      unit: 'ms',
      samples: runs.map(({ startMs }) => startMs),
    }),
    figure('backup-scale', {
      name: 'the end of a run is stored; of a good one after S3 was asked for its objects',
      unit: 'ms',
      samples: runs.filter(({ stored }) => stored).map(({ endMs }) => endMs),
      note: `the ${runs.filter(({ stored }) => stored).length} runs that stored something`,
    }),
  ];
};
interface Round {
  runs: BackedUp[];
  waits: number[];
  cores: number;
}

const rateOf = (runs: readonly BackedUp[]): number => {
  const from = Math.min(...runs.map(({ signedFromMs }) => signedFromMs));
  const until = Math.max(...runs.map(({ signedUntilMs }) => signedUntilMs));
  return (runs.reduce((sum, { signed }) => sum + signed, 0) * 1000) / (until - from);
};

/** @throws Error unless each run is over, and one of ten of them good */
const allOver = async (operator: Operator, nodes: number, say: (line: string) => void): Promise<void> => {
  const states: Record<string, number> = {};
  let cursor: string | null = '';
  while (cursor !== null) {
    const page: { items: { state: string }[]; next_cursor: string | null } = await operator.ask(
      'GET',
      `/api/v1/backups/runs?config=spread&limit=1000${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
    );
    for (const { state } of page.items) states[state] = (states[state] ?? 0) + 1;
    cursor = page.next_cursor;
  }
  say(`runs: ${JSON.stringify(states)}`);
  const { completed = 0, failed = 0 } = states;
  if (completed + failed !== nodes || completed < Math.floor(nodes / STORES_EACH))
    throw new Error(`of ${nodes} runs: ${JSON.stringify(states)}`);
};
