import { execFileSync } from 'node:child_process';
import {
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeBackup, openMade } from './backup-maker.ts';

/** What anybody with a home on a node can do to root's backup of it, with files of his own. */

const ownDisk = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-disk-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'aegis-test', path]);
  onTestFinished(() => {
    execFileSync('umount', ['-l', path]);
    rmSync(path, { recursive: true });
  });
  return path;
};
const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-home-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
};
/** A file that is one large hole, but for three bytes at the end. */
const sparseFile = (path: string, size: string): void => {
  execFileSync('truncate', ['-s', size, path]);
  const fd = openSync(path, 'r+');
  try {
    writeSync(fd, 'end', Number(size) - 4096);
  } finally {
    closeSync(fd);
  }
};

test('files larger than any number: told, and all others are backed up and restored', async () => {
  const home = join(ownDisk(), 'home');
  mkdirSync(home);
  writeFileSync(join(home, 'good'), 'good');
  execFileSync('truncate', ['-s', '9223372036854775807', join(home, 'exabytes')]);
  execFileSync('truncate', ['-s', '9007199254740993', join(home, 'larger')]);
  sparseFile(join(home, 'petabytes'), '5000000000000000');
  const made = await makeBackup([home]);
  expect(made.result.errors.map(({ code, path }) => [code, path.split('/').at(-1)])).toEqual([
    ['file_too_large', 'exabytes'],
    ['file_too_large', 'larger'],
  ]);
  await using backup = await openMade(made);
  expect((await backup.verify()).errors).toEqual([]);
  const into = ownDisk();
  await backup.restore({ target: into });
  expect(readFileSync(join(into, home, 'good'), 'utf8')).toBe('good');
  expect(statSync(join(into, home, 'petabytes')).size).toBe(5_000_000_000_000_000);
});

test('times that no number holds are told, and stored as near as they can be', async () => {
  const home = join(ownDisk(), 'home');
  mkdirSync(join(home, 'folder'), { recursive: true });
  for (const [name, time] of [
    ['late', '9223372036854775807'],
    ['early', '-9223372036854775808'],
    ['folder', '9007199254740993'],
  ] as const) {
    if (name !== 'folder') writeFileSync(join(home, name), name);
    execFileSync('touch', ['-d', `@${time}`, join(home, name)]);
  }
  const made = await makeBackup([home]);
  expect(made.result.errors.map(({ code, path }) => [code, path.split('/').at(-1)])).toEqual([
    ['time_out_of_range', 'early'],
    ['time_out_of_range', 'folder'],
    ['time_out_of_range', 'late'],
  ]);
  await using backup = await openMade(made);
  expect((await backup.verify()).errors).toEqual([]);
});

test('--delete leaves another file system alone where the backup has but its mount point', async () => {
  const [source, into] = [ownDisk(), ownDisk()];
  mkdirSync(join(source, 'home/data'), { recursive: true });
  writeFileSync(join(source, 'home/kept'), 'kept');
  const made = await makeBackup([join(source, 'home')]);
  const mounted = join(into, source, 'home/data');
  mkdirSync(mounted, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'aegis-test', mounted]);
  onTestFinished(() => void execFileSync('umount', ['-l', mounted]));
  writeFileSync(join(mounted, 'precious'), 'precious');
  writeFileSync(join(into, source, 'home/extra'), 'extra');
  await using backup = await openMade(made);
  const result = await backup.restore({ target: into, overwrite: 'always', deleteExtra: true });
  expect(readFileSync(join(mounted, 'precious'), 'utf8')).toBe('precious');
  expect(result).toMatchObject({ deleted: 1 });
});

test('a file that takes the inode of a restored one is not given its other names', async () => {
  const [source, into] = [folder(), folder()];
  writeFileSync(join(source, 'a'), 'good');
  linkSync(join(source, 'a'), join(source, 'b'));
  const made = await makeBackup([source]);
  await using backup = await openMade(made);
  const [a, b] = [join(into, source, 'a'), join(into, source, 'b')];
  const result = await backup.restore({
    target: into,
    owners: true,
    onEntry: (_, path) => {
      if (!path.toString().endsWith('/a')) return;
      const { ino } = statSync(a);
      // ext4 and others give a number that became free to the next one.
      for (let at = 0; at < 20 && (at === 0 || statSync(a).ino !== ino); at++) {
        unlinkSync(a);
        writeFileSync(a, 'evil');
        chownSync(a, 12_345, 12_345);
      }
    },
  });
  expect(existsSync(b) ? readFileSync(b, 'utf8') : 'good').toBe('good');
  expect(result.errors.map(({ code }) => code)).toEqual(['ESTALE']);
});
