import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { begin, isPart, isStatement, s3Stage, spoolOf, whole } from './backup-s3-stage.ts';
import { endedRun } from './backup-stage.ts';
import { waitFor } from './wait-for.ts';

/** What waits on disk to be uploaded: taken up by the next daemon when it is whole, made again when it is not, bounded always. */

let rados: Radosgw;
beforeAll(async () => {
  rados = await startRadosgw();
}, 120_000);
afterAll(() => rados?.stop());

/** Files below the spool, by their names in the attempt's folder. */
const partsOf = (spool: string): string[] =>
  readdirSync(spool, { recursive: true, encoding: 'utf8' }).filter((name) => /archive\.\d{5}$/.test(name));

test('an archive that was spooled whole goes on after a restart, as the same attempt', async () => {
  await using on = await s3Stage(rados, {}, { backups_stall_sec: 60 });
  let parts = 0;
  on.proxy.misbehave('hang', (ask) => isPart(ask) && ++parts > 1);
  const asked = begin(on.node);
  asked.catch(() => undefined);
  const spool = join(on.node.dataDir, 'backups', 'spool');
  await waitFor(
    'all parts but one',
    () => parts > 1 && on.server.runsOf(on.configId)[0]?.progress.some(({ phase }) => phase === 'uploading'),
  );
  await waitFor('the first part to be up', () => partsOf(spool).length === 2);
  await on.daemon.close();
  await expect(asked).rejects.toMatchObject({
    code: 'http.unavailable',
    message: expect.stringContaining('goes on at its next start'),
  });
  expect(partsOf(spool)).toHaveLength(2);
  on.proxy.mend();
  await on.start();
  await whole(on);
  const [run] = on.server.runsOf(on.configId);
  expect(run).toMatchObject({ attempt: 1, end: { state: 'completed', attempt: 1 } });
  expect(on.server.runsOf(on.configId)).toHaveLength(1);
  // One part was up before the restart, and is not sent again.
  const numbers = on.proxy.seen
    .filter((one) => isPart(one) && one.status === 200)
    .map(({ query }) => query.get('partNumber'));
  expect(numbers.sort()).toEqual(['1', '2', '3']);
});

test('where the spool was lost, the archive is made again', async () => {
  await using on = await s3Stage(rados, {}, { backups_stall_sec: 60 });
  on.proxy.misbehave('hang', isStatement);
  const asked = begin(on.node);
  asked.catch(() => undefined);
  await waitFor('the statement', () => on.proxy.seen.some(isStatement));
  await on.daemon.close();
  rmSync(join(on.node.dataDir, 'backups', 'spool'), { recursive: true });
  on.proxy.mend();
  await on.start();
  await whole(on);
  expect(on.server.runsOf(on.configId)[0]).toMatchObject({ attempt: 2, end: { state: 'completed', attempt: 2 } });
});

test('a slow S3 server slows the archive down: no more lies on disk than may', async () => {
  await using on = await s3Stage(
    rados,
    {},
    { backups_spool_parts: 1, backups_parallel_parts: 1, backups_stall_sec: 60 },
  );
  on.proxy.misbehave('hang', isPart);
  const asked = begin(on.node);
  asked.catch(() => undefined);
  await waitFor('a part', () => on.proxy.seen.some(isPart));
  const spool = join(on.node.dataDir, 'backups', 'spool');
  expect(partsOf(spool)).toHaveLength(1);
  expect((await on.daemon.backups())[0]?.running?.progress?.phase).not.toBe('uploading');
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, partsOf(spool).length);
  }, 1);
  on.proxy.mend();
  expect((await asked).at(-1)).toMatchObject({ state: 'completed' });
  clearInterval(watch);
  expect(most).toBe(1);
  await whole(on);
});

test('a full disk under the spool fails the run by its name, and is free again afterwards', async () => {
  await using on = await s3Stage(rados, { retries: { max: 0 } }, { backups_spool_parts: 64, backups_stall_sec: 60 });
  const spool = join(on.node.dataDir, 'backups', 'spool');
  await waitFor('the spool', () => readdirSync(join(on.node.dataDir, 'backups')).includes('spool'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'aegis-test', spool]);
  try {
    on.proxy.misbehave('hang', isPart);
    expect((await begin(on.node)).at(-1)).toMatchObject({
      state: 'failed',
      reason: { code: 'backups.storage_full', message: expect.stringContaining('free disk space') },
    });
    expect((await endedRun(on.server, on.configId)).end).toMatchObject({ state: 'failed', statement: null });
    await waitFor('an empty spool', () => spoolOf(on.node).length === 0);
    on.proxy.mend();
  } finally {
    execFileSync('umount', ['-l', spool]);
  }
});
