import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { SeenRequest } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { startBackupFleet } from '../fleet/backup-fleet.ts';

/** The network to S3, that to the server, and both, cut for a minute in the middle of a backup, with the patience that daemons have by default:
 *  the run goes on as the attempt that it was, and what was backed up is compared. */

const MINUTE = 60_000;
const MIB = 1024 * 1024;
const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');

test('a minute without S3, without the server, and without either', async () => {
  await using on = await startBackupFleet({}, { AEGIS_BACKUPS_RETRY_SEC: '900', AEGIS_BACKUPS_STALL_SEC: '60' });
  const cuts = [
    ['s3', on.proxy],
    ['server', on.fleet.network],
    ['both', on.proxy, on.fleet.network],
  ] as const;
  const spec = { bandwidth: { upload: 6 * MIB }, retries: { max: 0 } };
  for (const [name] of cuts) await on.configure(name, { sources: [on.plant(name, 24)], spec });
  for (const [name, ...nets] of cuts) {
    const parts = on.proxy.seen.filter(isPart).length;
    await on.begin(name);
    await waitFor('a part', () => on.proxy.seen.filter(isPart).length > parts);
    for (const net of nets) net.cut();
    await sleep(MINUTE);
    for (const net of nets) net.mend();
    const runs = await on.over(name);
    expect([name, runs.map(({ state, attempt }) => [state, attempt])]).toEqual([name, [['completed', 1]]]);
    expect(await on.faults(name, join(on.fleet.folder, 'sources', name))).toEqual([]);
  }
  await waitFor('the spools to be empty', () => on.spooled().length === 0);
  expect(await on.openUploads()).toEqual([]);
}, 600_000);
