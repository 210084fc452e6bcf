import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EMPTY, type FileCalls, fileCalls, STAT, STAT_FIELDS } from '@aegis/native/files';
import { expect, onTestFinished, test } from 'vitest';
import type { RestoreOptions } from '../src/backup/restore/backup.ts';
import { storeManifest } from '../src/backup/restore/manifest-store.ts';
import { restoreInto } from '../src/backup/restore/restore-run.ts';
import { type MadeBackup, makeBackup, memorySource, sha256 } from './backup-maker.ts';

/** What somebody who may write to a folder does there while root restores into it, at the one moment where it would help him. */

const NEIGHBOUR = 12_345;
const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-neighbour-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
};
const restore = async (made: MadeBackup, files: FileCalls, options: RestoreOptions) => {
  const facts = (bytes: Buffer) => ({ bytes: bytes.length, sha256: sha256(bytes) });
  const manifest = await storeManifest({
    source: memorySource(made.manifest),
    stated: facts(made.manifest),
    archiveBytes: made.archive.length,
    identities: [],
  });
  const source = memorySource(made.archive);
  const archive = { source, stated: facts(made.archive), table: manifest.table, identities: null };
  return restoreInto({ manifest, archive, files }, options);
};

test('a file that gains power with its mode is out of reach until it has it, for its owner too', async () => {
  const [source, target] = [folder(), folder()];
  for (const [name, bytes] of [
    ['small', 100],
    ['large', 9_000_000],
  ] as const) {
    writeFileSync(join(source, name), Buffer.alloc(bytes, name));
    chownSync(join(source, name), NEIGHBOUR, 4);
    chmodSync(join(source, name), 0o2755);
  }
  const made = await makeBackup([source]);
  const into = join(target, source);
  mkdirSync(into, { recursive: true });
  chownSync(into, NEIGHBOUR, NEIGHBOUR);
  const files = fileCalls();
  const within: string[][] = [];
  const chownAt: FileCalls['chownAt'] = (fd, name, uid, gid) => {
    files.chownAt(fd, name, uid, gid);
    const stat = new Float64Array(STAT_FIELDS);
    files.statAt(fd, EMPTY, stat);
    if (((stat[STAT.mode] ?? 0) & 0o170000) !== 0o100000) return;
    // What the neighbour, whose file it is by now, sees of it.
    within.push(
      readdirSync(into).filter((one) => {
        const { mode, uid: owner } = statSync(join(into, one));
        return one.startsWith('.') && (owner === NEIGHBOUR || (mode & 0o077) !== 0);
      }),
    );
  };
  const result = await restore(made, { ...files, chownAt }, { target, owners: true, setuid: true });
  expect(result).toMatchObject({ restored: 2, errors: [] });
  expect(within).toEqual([[], []]);
  expect(readdirSync(into)).toEqual(['large', 'small']);
  for (const name of ['small', 'large']) {
    const { mode, uid, gid, size } = statSync(join(into, name));
    expect([mode & 0o7777, uid, gid, size]).toEqual([0o2755, NEIGHBOUR, 4, statSync(join(source, name)).size]);
  }
});

test('where no folder can be kept to oneself a file comes back without the power, and it is told', async () => {
  const [source, target] = [folder(), folder()];
  writeFileSync(join(source, 'tool'), 'tool');
  chmodSync(join(source, 'tool'), 0o4755);
  const made = await makeBackup([source]);
  const into = join(target, source);
  mkdirSync(into, { recursive: true });
  const files = fileCalls();
  // As vfat and some network file systems have it.
  const statAt: FileCalls['statAt'] = (fd, name, out, at = 0) => {
    files.statAt(fd, name, out, at);
    if (((out[at + STAT.mode] ?? 0) & 0o170000) === 0o040000) out[at + STAT.mode] = 0o040755;
  };
  const result = await restore(made, { ...files, statAt }, { target, owners: true, setuid: true });
  expect(result).toMatchObject({ restored: 1, errors: [{ code: 'EPERM' }] });
  expect([readdirSync(into), statSync(join(into, 'tool')).mode & 0o7777]).toEqual([['tool'], 0o755]);
});

test("a folder of root's that is put in place of one that was just made is not opened to others", async () => {
  for (const options of [{ paths: ['file'] }, {}]) {
    const [source, target] = [folder(), folder()];
    mkdirSync(join(source, 'sub'));
    writeFileSync(join(source, 'sub/file'), 'x');
    chownSync(join(source, 'sub'), NEIGHBOUR, NEIGHBOUR);
    const made = await makeBackup([source]);
    const into = join(target, source);
    mkdirSync(join(into, 'private'), { recursive: true, mode: 0o700 });
    chmodSync(join(into, 'private'), 0o700);
    writeFileSync(join(into, 'private/secret'), 'secret');
    chownSync(into, NEIGHBOUR, NEIGHBOUR);
    const files = fileCalls();
    const mkdirAt: FileCalls['mkdirAt'] = (fd, name, mode) => {
      files.mkdirAt(fd, name, mode);
      if (name.toString() !== 'sub') return;
      renameSync(join(into, 'sub'), join(into, 'away'));
      renameSync(join(into, 'private'), join(into, 'sub'));
    };
    const restoring = restore(made, { ...files, mkdirAt }, { target, owners: true, ...options });
    await expect(restoring).rejects.toMatchObject({ code: 'backups.unsafe_target' });
    const { mode, uid } = statSync(join(into, 'sub'));
    expect([mode & 0o777, uid]).toEqual([0o700, 0]);
    expect(readFileSync(join(into, 'sub/secret'), 'utf8')).toBe('secret');
    expect(existsSync(join(into, 'sub/file'))).toBe(false);
  }
});
