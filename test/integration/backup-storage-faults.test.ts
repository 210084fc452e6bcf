import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { snapshot } from '../../packages/archive/test/tree-compare.ts';
import type { SeenRequest } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { type BackupFleet, plantTree, startBackupFleet } from '../fleet/backup-fleet.ts';
import { faultsIn } from '../fleet/database.ts';

/** Storage that fails under a backup: the disk of its spool is full, the file system of its sources goes away. */

const MIB = 1024 * 1024;
let on: BackupFleet;
let small: string;
beforeAll(async () => {
  small = mkdtempSync(join(tmpdir(), 'aegis-small-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m,mode=0700', 'tmpfs', small]);
  on = await startBackupFleet({ dataDirOf: (name) => join(small, name) }, { AEGIS_BACKUPS_RETRY_SEC: '60' });
}, 120_000);
afterAll(async () => {
  await on?.[Symbol.asyncDispose]();
  execFileSync('umount', ['-l', small]);
  rmSync(small, { recursive: true, force: true });
});

const freeBytes = (): number => {
  const { bavail, bsize } = statfsSync(small);
  return bavail * bsize;
};
const fill = (leave: number): void => {
  const ballast = join(small, 'ballast');
  rmSync(ballast, { force: true });
  writeFileSync(ballast, Buffer.alloc(Math.max(0, freeBytes() - leave)));
};
const makeRoom = (): void => rmSync(join(small, 'ballast'), { force: true });
const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');
const states = async (name: string) => (await on.runs(name)).map(({ state }) => state);
/** The first part of the next run stands still, so that something can happen in the middle. */
const inTheMiddle = async (name: string): Promise<void> => {
  const before = on.proxy.seen.length;
  on.proxy.misbehave('hang', isPart);
  await on.begin(name);
  await waitFor('a part', () => on.proxy.seen.slice(before).some(isPart));
};

test('a spool without room for a part: the run says so, and the next one with room is whole', async () => {
  const source = on.plant('full', 14);
  await on.configure('full', { sources: [source], spec: { retries: { max: 0 } } });
  fill(3 * MIB);
  await on.begin('full');
  const [run] = await on.over('full');
  expect(run).toMatchObject({
    state: 'failed',
    reason: { message: expect.stringMatching(/ENOSPC|no space|full|room/i) },
  });
  makeRoom();
  await waitFor('the spool to be empty', () => on.spooled().length === 0);
  await on.begin('full');
  await on.over('full');
  expect((await states('full')).sort()).toEqual(['completed', 'failed']);
  expect(await on.faults('full', source)).toEqual([]);
}, 120_000);

test('a disk that fills to the last byte in the middle of a run', async () => {
  const source = on.plant('filled', 14);
  await on.configure('filled', { sources: [source], spec: { retries: { max: 3, backoff_sec: 1 } } });
  await inTheMiddle('filled');
  fill(0);
  on.proxy.mend();
  await waitFor(
    'an end, or trouble with the disk',
    async () => {
      if (/ENOSPC|no space|full/i.test(on.fleet.nodes[0]?.daemon.log() ?? '')) return true;
      return (await states('filled')).every((state) => state !== 'running');
    },
    60_000,
  );
  makeRoom();
  await on.over('filled');
  expect(await on.faults('filled', source)).toEqual([]);
  await on.begin('filled').catch(() => undefined); // the daemon lives, whatever became of the first one
  await on.over('filled');
  expect(await states('filled')).toContain('completed');
}, 180_000);

const onDisk = (mount: string): void => {
  const image = `${mount}.image`;
  execFileSync('truncate', ['-s', '96M', image]);
  execFileSync('mkfs.ext4', ['-q', '-m', '0', image]);
  execFileSync('mount', ['-o', 'loop', image, mount]);
  rmSync(join(mount, 'lost+found'), { recursive: true });
};
const inMemory = (mount: string): void => {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', mount]);
};
const unmount = (mount: string): void => {
  execFileSync('umount', ['-l', mount]);
};
/** As when its disk is pulled out: every read of what is not open is answered with EIO, and so is that of what is. */
const shutDown = (mount: string): void => {
  const EXT4_IOC_SHUTDOWN = '0x8004587d';
  const program = `import fcntl,os; fcntl.ioctl(os.open('${mount}', os.O_RDONLY), ${EXT4_IOC_SHUTDOWN}, bytes(4))`;
  execFileSync('python3', ['-c', program]);
  unmount(mount);
};

test.each([
  // The descriptors of the walk keep it: nothing of it is lost.
  ['with the folder above the source', inMemory, '/one/below', unmount, 'completed', []],
  ['of which the source is the root', onDisk, '', unmount, 'completed_with_errors', ['source_changed']],
  ['whose disk is gone', onDisk, '', shutDown, 'completed_with_errors', ['EIO']],
])(
  'a file system unmounted in the middle, %s',
  async (_, mounted, below, gone, state, codes) => {
    const name = `gone-${on.proxy.seen.length}`;
    const mount = mkdtempSync(join(on.fleet.folder, 'source-'));
    mounted(mount);
    const source = `${mount}${below}`;
    mkdirSync(source, { recursive: true });
    plantTree(source, 24);
    const wanted = snapshot(source);
    try {
      await on.configure(name, { sources: [source], spec: { retries: { max: 1, backoff_sec: 1 } } });
      await inTheMiddle(name);
    } finally {
      gone(mount);
    }
    on.proxy.mend();
    const [run] = await on.over(name);
    expect([run?.state, run?.errors.map(({ code }) => code)]).toEqual([state, expect.arrayContaining(codes)]);
    expect(await on.faults(name, source, wanted)).toEqual([]);
  },
  120_000,
);

test('nothing is left in spool and uploads', async () => {
  await waitFor('the spools to be empty', () => on.spooled().length === 0);
  await waitFor('no upload to be left', async () => (await on.openUploads()).length === 0, 40_000);
  expect(faultsIn(join(on.fleet.folder, 'server'))).toEqual([]);
}, 60_000);
