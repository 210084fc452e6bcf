import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { seededRandom } from '../faults/bad-network.ts';
import { INTERNAL_ERROR, type SeenRequest, SLOW_DOWN } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { startBackupFleet } from '../fleet/backup-fleet.ts';
import { faultsIn } from '../fleet/database.ts';

/** `kill -9` of server and daemon at random moments of backups, AEGIS_KILLS times in all, while S3 now and then fails a request. Each run that
 *  calls itself completed is verified and restored, and the tree compared. */

const KILLS = Number(process.env.AEGIS_KILLS ?? 100);
const SEED = Number(process.env.AEGIS_SEED ?? 20261124);
const MIB = 1024 * 1024;

test(
  `${KILLS} kills`,
  async () => {
    await using on = await startBackupFleet({ seed: SEED });
    const random = seededRandom(SEED);
    const isWrite = ({ method }: SeenRequest): boolean => method === 'PUT';
    on.proxy.misbehave(INTERNAL_ERROR, (ask) => isWrite(ask) && random() < 0.05);
    on.proxy.misbehave(SLOW_DOWN, (ask) => isWrite(ask) && random() < 0.05);
    on.proxy.misbehave('reset', (ask) => isWrite(ask) && random() < 0.05);
    on.proxy.misbehave('lose-answer', (ask) => isWrite(ask) && random() < 0.05);
    const states: Record<string, number> = {};
    const faults: string[] = [];
    let kills = 0;
    for (let nth = 0; kills < KILLS && faults.length === 0; nth++) {
      const name = `kills-${nth}`;
      const source = on.plant(name, 8 + Math.floor(random() * 12));
      await on.configure(name, {
        sources: [source],
        spec: { bandwidth: { upload: 6 * MIB }, retries: { max: 10, backoff_sec: 1 } },
      });
      await on.begin(name);
      for (let more = 1 + Math.floor(random() * 4); more > 0; more--) {
        await sleep(random() * 1500); // at random: the point of the exercise, not synchronisation
        const process = random() < 0.5 ? on.fleet.server : on.fleet.nodes[0]?.daemon;
        kills++;
        await process?.kill9();
        await process?.start();
      }
      for (const { state } of await on.over(name, 300_000)) states[state] = (states[state] ?? 0) + 1;
      faults.push(...(await on.faults(name, source)));
    }
    console.log(`seed ${SEED}: ${kills} kills, runs ${JSON.stringify(states)}`);
    expect(faults).toEqual([]);
    expect(states.completed).toBeGreaterThan(0);
    on.proxy.mend();
    await waitFor('the spools to be empty', () => on.spooled().length === 0);
    await waitFor('no upload to be left', async () => (await on.openUploads()).length === 0, 60_000);
    await on.fleet.server.stop();
    expect(faultsIn(`${on.fleet.folder}/server`)).toEqual([]);
  },
  4 * 3_600_000,
);
