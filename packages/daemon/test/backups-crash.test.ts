import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RADOSGW_REGION, type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { startBackupServer } from './backup-server.ts';
import { listing, plantTree, unpack } from './backup-stage.ts';
import { brokenAt, type Life, mortalDaemon } from './mortal-daemon.ts';
import { waitFor } from './wait-for.ts';

/** Kills the daemon at every commit and every send of a backup, starts it again, and wants one run for the one time of its schedule, proven
 *  and whole, and nothing left of what the death interrupted. The points enumerate themselves in a first run. */

let rados: Radosgw;
let source: string;
beforeAll(async () => {
  rados = await startRadosgw();
  source = mkdtempSync(join(tmpdir(), 'aegis-crash-source-'));
  plantTree(source, 6);
}, 120_000);
afterAll(async () => {
  await rados?.stop();
  rmSync(source, { recursive: true, force: true });
});

/** How long the daemon takes here to start, and to hold what it is sent: told by the lives without a death, which come first. */
const pace = { startMs: 2000, heldMs: 1500 };
/** Once, in some seconds from now: later than the configuration is held, by a daemon that died and started again where it may die before. */
const soon = (crashAt: string | null): string => {
  const restart = /configs|Desired|desired/.test(crashAt ?? '') ? Math.max(4000, 2 * pace.startMs) : 0;
  const at = new Date(Date.now() + 1000 + Math.max(1000, 3 * pace.heldMs) + restart);
  return `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} ${at.getUTCDate()} ${at.getUTCMonth() + 1} *`;
};

const live = async (crashAt: string | null, kind: 's3' | 'file'): Promise<Life> => {
  const home = mkdtempSync(join(tmpdir(), 'aegis-backup-crash-'));
  const account = { access_key_id: rados.accessKey, secret_access_key: rados.secretKey };
  await using server = await startBackupServer({ account });
  const flags = {
    data_dir: join(home, 'node'),
    server: server.url,
    join_token: server.joinToken,
    name: 'web-1',
    poll_wait_sec: 2,
    backups_part_bytes: 5 * 1024 * 1024,
    log_level: 'silent',
  };
  const startedAt = Date.now();
  const daemon = mortalDaemon(home, flags, crashAt);
  try {
    await waitFor('enrolment', () => server.nodes.size > 0, 30_000);
    const enrolledAt = Date.now();
    const folder = join(home, 'destination');
    mkdirSync(folder);
    const destination =
      kind === 'file'
        ? { kind, path: folder }
        : { kind, bucket: await rados.bucket(), region: RADOSGW_REGION, endpoint: rados.endpoint, path_style: true };
    const { config_id } = server.configure({
      sources: [source],
      destination,
      schedule: { cron: soon(crashAt) },
      retries: { backoff_sec: 1 },
      hooks: { before: [{ argv: ['true'] }], after: [{ argv: ['true'] }] },
    });
    if (crashAt === null) {
      await waitFor('the configuration to be held', () => server.reportOf(config_id), 30_000);
      Object.assign(pace, { startMs: enrolledAt - startedAt, heldMs: Date.now() - enrolledAt });
    }
    const run = await waitFor('the end', () => server.runsOf(config_id).find(({ end }) => end), 60_000);
    expect(run.end).toMatchObject({ state: 'completed', reason: null });
    expect(run.refusedEnds).toEqual([]);
    const archive = await server.objectOf(run, 'archive');
    expect(listing(unpack(archive ?? Buffer.alloc(0), source))).toBe(listing(source));
    if (crashAt?.endsWith('#1')) await waitFor('its death', daemon.died, 30_000); // the last points come after the end
    await waitFor('the next time to be told', () => server.reportOf(config_id)?.generation === 1, 30_000);
    await waitFor(
      'the spool to be empty',
      () => readdirSync(join(flags.data_dir, 'backups', 'spool')).length === 0,
      30_000,
    );
    expect(server.runsOf(config_id)).toHaveLength(1);
    return { died: daemon.died(), points: daemon.points() };
  } finally {
    await daemon[Symbol.asyncDispose]();
    rmSync(home, { recursive: true, force: true, maxRetries: 3 });
  }
};

const pointsOf = (points: readonly string[]): string[] =>
  points.filter((point) => /backup|Backup|s3-|nodeDesired|desired-revision/.test(point) && /#[12]$/.test(point));
/** Each life takes seconds: all of them under AEGIS_LONG. */
const chosen = (points: readonly string[]): string[] =>
  process.env.AEGIS_LONG ? [...points] : points.filter((_, nth) => nth % 8 === 0);

test.concurrent('stopped anywhere in a backup into a bucket, it ends whole', async () => {
  const { points } = await live(null, 's3');
  const own = pointsOf(points);
  for (const name of ['configs', 'queued', 'attempt', 'granted', 'upload', 'part', 'archived', 'ended', 'told'])
    expect(own).toEqual(
      expect.arrayContaining([`daemon.before-commit.backup-${name}#1`, `daemon.after-commit.backup-${name}#1`]),
    );
  for (const name of [
    'startBackupRun',
    'openBackupUpload',
    'signBackupRequests',
    'closeBackupUpload',
    'endBackupRun',
    's3-part',
    's3-manifest',
    's3-statement',
  ])
    expect(own).toEqual(expect.arrayContaining([`daemon.before-send.${name}#1`, `daemon.after-send.${name}#1`]));
  expect(await brokenAt(chosen(own), (crashAt) => live(crashAt, 's3'), 5)).toEqual([]);
}, 600_000);

test.concurrent('stopped anywhere in a backup into a folder, it ends whole', async () => {
  const { points } = await live(null, 'file');
  const own = pointsOf(points).filter((point) => /store|after-commit/.test(point));
  for (const name of ['archive', 'manifest', 'statement'])
    expect(own).toEqual(
      expect.arrayContaining([`daemon.before-store.backup-${name}#1`, `daemon.after-store.backup-${name}#1`]),
    );
  expect(await brokenAt(chosen(own), (crashAt) => live(crashAt, 'file'))).toEqual([]);
}, 600_000);

test.concurrent('a hook that was running when the daemon died is ended, and runs anew', async () => {
  const notes = mkdtempSync(join(tmpdir(), 'aegis-hook-'));
  await using server = await startBackupServer();
  const flags = {
    data_dir: join(notes, 'node'),
    server: server.url,
    join_token: server.joinToken,
    name: 'web-1',
    poll_wait_sec: 2,
    log_level: 'silent',
  };
  // Dies with its first word of progress, while the hook hangs.
  const daemon = mortalDaemon(notes, flags, 'daemon.before-send.postBackupProgress#1');
  try {
    await waitFor('enrolment', () => server.nodes.size > 0, 30_000);
    mkdirSync(join(notes, 'to'));
    const script = `echo $$ >> ${notes}/pids; [ $(wc -l < ${notes}/pids) -gt 1 ] || sleep 600`;
    const { config_id } = server.configure({
      sources: [source],
      destination: { kind: 'file', path: join(notes, 'to') },
      schedule: { cron: soon(null) },
      hooks: { before: [{ argv: ['sh', '-c', script] }] },
    });
    const run = await waitFor('the end', () => server.runsOf(config_id).find(({ end }) => end), 60_000);
    expect(run).toMatchObject({ attempt: 2, end: { state: 'completed' } });
    const [first = ''] = readFileSync(join(notes, 'pids'), 'utf8').split('\n');
    await waitFor(
      'the first to be gone',
      () => !existsSync(`/proc/${first}`) || /\) Z/.test(readFileSync(`/proc/${first}/stat`, 'utf8')),
    );
  } finally {
    await daemon[Symbol.asyncDispose]();
    rmSync(notes, { recursive: true, force: true, maxRetries: 3 });
  }
}, 120_000);
