import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { seededRandom } from '../faults/bad-network.ts';
import { waitFor } from '../faults/wait.ts';
import { faultsIn } from '../fleet/database.ts';
import { startFleet } from '../fleet/fleet.ts';
import { median, memoryOf } from '../fleet/memory.ts';
import { KIND_NAMES, startJob } from '../fleet/workload.ts';

/** Many commands for AEGIS_SOAK_MIN minutes over a network that delays, loses and is cut again and again. Everything arrives once,
 *  and what server and daemons hold in memory, open files and disk does not grow with time. */

const MINUTES = Number(process.env.AEGIS_SOAK_MIN ?? 10);
const SEED = Number(process.env.AEGIS_SEED ?? 20261123);
const AT_ONCE = 16;
const SAMPLE_MS = 1000;

test(
  `${MINUTES} minutes over a bad network`,
  async () => {
    await using fleet = await startFleet({ nodes: 3, seed: SEED });
    const random = seededRandom(SEED);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    const end = performance.now() + MINUTES * 60_000;
    const over = () => performance.now() >= end;

    const weather = async (): Promise<void> => {
      while (!over()) {
        fleet.network.delayUpTo(random() * 60);
        fleet.network.loseAnswers(0.03);
        fleet.network.loseRequests(0.03);
        await sleep(5000 + random() * 10_000);
        fleet.network.cut();
        await sleep(500 + random() * 3000);
        fleet.network.mend();
        if (random() < 0.3) fleet.network.duplicateEverything();
      }
      fleet.network.mend();
    };
    const processes = {
      server: fleet.server,
      ...Object.fromEntries(fleet.nodes.map(({ name, daemon }) => [name, daemon])),
    };
    const samples: Record<string, ReturnType<typeof memoryOf>[]> = {};
    const watch = async (): Promise<void> => {
      for (; !over(); await sleep(SAMPLE_MS))
        for (const [name, { pid }] of Object.entries(processes)) {
          samples[name] ??= [];
          samples[name].push(memoryOf(pid));
        }
    };
    const faults: string[] = [];
    let jobs = 0;
    const worker = async (): Promise<void> => {
      while (!over() && faults.length === 0) {
        const job = await startJob(fleet, pick(fleet.nodes).name, pick(KIND_NAMES));
        const fault = await job.fault(180_000);
        jobs++;
        if (fault) faults.push(`${job.kind} on ${job.node}: ${fault}`);
      }
    };
    await Promise.all([weather(), watch(), ...Array.from({ length: AT_ONCE }, worker)]);

    const figures = Object.fromEntries(
      Object.entries(samples).map(([name, all]) => {
        const third = Math.floor(all.length / 3);
        const early = all.slice(third, 2 * third); // the first third warms up
        const late = all.slice(2 * third);
        const of = (part: typeof all, what: 'residentMb' | 'files') => median(part.map((one) => one[what]));
        return [
          name,
          {
            early: of(early, 'residentMb'),
            late: of(late, 'residentMb'),
            peak: Math.max(...all.map(({ peakMb }) => peakMb)),
            files: [of(early, 'files'), of(late, 'files')] as const,
          },
        ];
      }),
    );
    console.log(
      `seed ${SEED}: ${jobs} commands compared, network ${JSON.stringify(fleet.network.counts)}, MB ${JSON.stringify(figures)}`,
    );
    expect(faults).toEqual([]);
    expect(fleet.network.counts.lostAnswers).toBeGreaterThan(10);
    for (const [name, { early, late, peak, files }] of Object.entries(figures)) {
      expect(peak, `${name}: peak`).toBeLessThanOrEqual(name === 'server' ? 250 : 150);
      expect(late, `${name}: growth`).toBeLessThanOrEqual(early * 1.15 + 8);
      expect(files[1], `${name}: open files`).toBeLessThanOrEqual(files[0] * 1.5 + 16);
    }
    for (const { dataDir } of fleet.nodes) {
      await waitFor(
        'nothing to be left on the node',
        () => readdirSync(join(dataDir, 'executions')).length === 0,
        60_000,
      );
      expect(statSync(join(dataDir, 'journal.db')).size).toBeLessThan(64 * 1024 * 1024);
    }
    expect(faultsIn(join(fleet.folder, 'server'))).toEqual([]);
  },
  (MINUTES + 10) * 60_000,
);
