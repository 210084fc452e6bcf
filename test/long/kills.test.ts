import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { seededRandom } from '../faults/bad-network.ts';
import type { ManagedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { faultsIn } from '../fleet/database.ts';
import { startFleet } from '../fleet/fleet.ts';
import { KIND_NAMES, startJob } from '../fleet/workload.ts';

/** `kill -9` of server and daemons, AEGIS_KILLS times in all, at random and also at once, while a dozen commands run at any time.
 *  Every command's whole output is compared; a marker file shows each start. */

const KILLS = Number(process.env.AEGIS_KILLS ?? 2000);
const SEED = Number(process.env.AEGIS_SEED ?? 20261122);
const AT_ONCE = 12;

test(
  `${KILLS} kills`,
  async () => {
    await using fleet = await startFleet({ nodes: 3, seed: SEED });
    const random = seededRandom(SEED);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
    let kills = 0;
    const killer = async (victims: readonly ManagedProcess[]): Promise<void> => {
      while (kills < KILLS) {
        await sleep(20 + random() * 480); // at random: the point of the exercise, not synchronisation
        const victim = pick(victims);
        kills++;
        await victim.kill9();
        await victim.start();
      }
    };
    const faults: string[] = [];
    let jobs = 0;
    const worker = async (): Promise<void> => {
      while (kills < KILLS && faults.length === 0) {
        const job = await startJob(fleet, pick(fleet.nodes).name, pick(KIND_NAMES));
        const fault = await job.fault(300_000);
        jobs++;
        if (fault) faults.push(`${job.kind} on ${job.node}: ${fault}`);
      }
    };
    await Promise.all([
      killer([fleet.server]),
      killer(fleet.nodes.map(({ daemon }) => daemon)),
      ...Array.from({ length: AT_ONCE }, worker),
    ]);
    console.log(`seed ${SEED}: ${kills} kills, ${jobs} commands compared`);
    expect(faults).toEqual([]);
    expect(jobs).toBeGreaterThan(KILLS / 20);
    for (const { dataDir } of fleet.nodes)
      await waitFor(
        'nothing to be left on the node',
        () => readdirSync(join(dataDir, 'executions')).length === 0,
        60_000,
      );
    expect(faultsIn(join(fleet.folder, 'server'))).toEqual([]);
  },
  4 * 3_600_000,
);
