import { execFileSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Overwrite } from '../src/backup/restore/backup.ts';
import { putTogether } from './backup-forge.ts';
import { openMade } from './backup-maker.ts';
import { type Proving, provingGround } from './proving-ground.ts';

/** A good backup, restored where someone was before: symlinks, hard links, files and folders where they do not belong. None is followed. */

let proving: Proving;
beforeAll(async () => {
  proving = await provingGround();
  return () => proving[Symbol.dispose]();
});

describe('a target with traps in it', () => {
  const traps: Record<string, (place: string) => void> = {
    'a symlink to a file proving.outside in place of a file': (place) =>
      replaced(join(place, 'folder/small'), (at) => symlinkSync(join(proving.outside, 'secret'), at)),
    'a symlink to a folder proving.outside in place of a folder': (place) =>
      replaced(join(place, 'folder'), (at) => symlinkSync(proving.outside, at)),
    'a symlink upwards in place of a folder': (place) => replaced(join(place, 'folder'), (at) => symlinkSync('..', at)),
    'a symlink to itself in place of a folder': (place) =>
      replaced(join(place, 'folder'), (at) => symlinkSync('folder', at)),
    'a file in place of a folder': (place) => replaced(join(place, 'folder'), (at) => writeFileSync(at, 'trap')),
    'a folder in place of a symlink': (place) => replaced(join(place, 'symlink'), (at) => mkdirSync(at)),
  };
  const replaced = (at: string, make: (at: string) => void): void => {
    rmSync(at, { recursive: true, force: true });
    make(at);
    if (!lstatSync(at).isSymbolicLink() && statSync(at).nlink < 2) utimesSync(at, 1, 1);
  };
  const planted = async (trap: (place: string) => void): Promise<string> => {
    const target = proving.newTarget();
    mkdirSync(join(proving.restoredIn(target), 'folder'), { recursive: true });
    writeFileSync(join(proving.restoredIn(target), 'folder/small'), 'old');
    trap(proving.restoredIn(target));
    return target;
  };
  for (const [name, trap] of Object.entries(traps)) {
    test(`${name}: replaced or left, never followed`, async () => {
      for (const overwrite of ['always', 'if-newer', 'never'] satisfies Overwrite[]) {
        const target = await planted(trap);
        const tried = await proving.attempt(proving.plain, { overwrite }, target);
        expect(tried.refused).toBe(null);
        if (overwrite === 'always' && name !== 'a folder in place of a symlink')
          expect(proving.isWhole(tried), overwrite).toBe(true);
        else if (overwrite === 'always') expect(tried.result?.errors.map(({ code }) => code)).toEqual(['EISDIR']);
        if (overwrite === 'never' && name.endsWith('of a folder')) expect(tried.result?.errorCount).toBeGreaterThan(0);
      }
    });
  }
  test('a hard link to a file proving.outside in place of a file: the file proving.outside stays', async () => {
    for (const overwrite of ['always', 'if-newer', 'never'] satisfies Overwrite[]) {
      const target = proving.newTarget();
      mkdirSync(join(proving.restoredIn(target), 'folder'), { recursive: true });
      linkSync(join(proving.outside, 'secret'), join(proving.restoredIn(target), 'folder/small'));
      await using backup = await openMade(proving.plain);
      await backup.restore({ target, overwrite });
      expect(readFileSync(join(proving.outside, 'secret'), 'utf8')).toBe('must stay as it is');
      expect(statSync(join(proving.outside, 'secret')).mode & 0o777).toBe(0o600);
      rmSync(join(proving.restoredIn(target), 'folder/small'));
    }
    proving.expectOutsideUntouched();
  });
  test('folders above the backup that are symlinks are not replaced, and not followed', async () => {
    const target = proving.newTarget();
    const [first = ''] = proving.source.slice(1).split('/');
    symlinkSync(proving.outside, join(target, first));
    const tried = await proving.attempt(proving.plain, { overwrite: 'always' }, target);
    expect(tried.result).toMatchObject({ restored: 0, errorCount: proving.wanted.size });
    expect(lstatSync(join(target, first)).isSymbolicLink()).toBe(true);
  });
  test('a default ACL of the target is not inherited', async () => {
    const target = proving.newTarget();
    execFileSync('setfacl', ['-d', '-m', 'u:12345:rwx', target]);
    const tried = await proving.attempt(proving.plain, {}, target);
    expect(proving.isWhole(tried)).toBe(true);
  });
  test('--delete removes what the backup does not have, in folders that it has, and follows nothing', async () => {
    const target = proving.newTarget();
    await proving.attempt(proving.plain, {}, target);
    const place = proving.restoredIn(target);
    mkdirSync(join(place, 'folder/extra/deep'), { recursive: true });
    writeFileSync(join(place, 'folder/extra/deep/file'), 'x');
    symlinkSync(proving.outside, join(place, 'folder/extra/deep/out'));
    symlinkSync(proving.outside, join(place, 'out'));
    writeFileSync(join(target, 'beside'), 'stays: its folder is none of the backup');
    replaced(join(place, 'symlink'), (at) => mkdirSync(join(at, 'full'), { recursive: true }));
    const dry = await proving.attempt(proving.plain, { overwrite: 'always', deleteExtra: true, dryRun: true }, target);
    expect(dry.result).toMatchObject({ deleted: 5, errors: [] });
    expect(existsSync(join(place, 'folder/extra/deep/file'))).toBe(true);
    const tried = await proving.attempt(proving.plain, { overwrite: 'always', deleteExtra: true }, target);
    expect(tried.result).toMatchObject({ deleted: 7, errors: [] }); // and the two folders in place of the symlink
    expect(proving.isWhole(tried)).toBe(true);
    expect(existsSync(join(target, 'beside'))).toBe(true);
  });
  test('--delete spares what the backup was to leave out: the archives themselves may lie there', async () => {
    const target = proving.newTarget();
    await proving.attempt(proving.plain, {}, target);
    const archives = join(proving.restoredIn(target), 'folder/archives');
    mkdirSync(archives);
    writeFileSync(join(archives, 'precious'), 'x');
    const header = { left_out: [`${proving.source}/folder/archives`, 7] };
    const made = await putTogether({ ...proving.parts, header }, proving.plain.node);
    const tried = await proving.attempt(made, { overwrite: 'always', deleteExtra: true }, target);
    expect(tried.result).toMatchObject({ deleted: 0, errors: [] });
    expect(existsSync(join(archives, 'precious'))).toBe(true);
  });
  test('--delete spares what could not be backed up', async () => {
    const target = proving.newTarget();
    await proving.attempt(proving.plain, {}, target);
    writeFileSync(join(proving.restoredIn(target), 'folder/unreadable'), 'x');
    const errors = [{ path: Buffer.from(`${proving.source.slice(1)}/folder/unreadable`), code: 'EIO', message: 'm' }];
    const made = await putTogether({ ...proving.parts, errors }, proving.plain.node);
    expect((await proving.attempt(made, { overwrite: 'always', deleteExtra: true }, target)).result).toMatchObject({
      deleted: 0,
    });
    expect(existsSync(join(proving.restoredIn(target), 'folder/unreadable'))).toBe(true);
  });
});
