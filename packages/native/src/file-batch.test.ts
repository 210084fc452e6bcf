import { createHash } from 'node:crypto';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { type BatchFile, writeFiles } from './file-batch.ts';
import { AT_FDCWD, fileCalls, OPEN_DIRECTORY } from './files.ts';

const files = fileCalls();

const folder = (): { dir: string; fd: number } => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-batch-'));
  const fd = files.openAt(AT_FDCWD, Buffer.from(dir), OPEN_DIRECTORY);
  onTestFinished(() => {
    files.closeFd(fd);
    rmSync(dir, { recursive: true });
  });
  return { dir, fd };
};
const wish = (dirFd: number, name: string, data: Buffer, more: Partial<BatchFile> = {}): BatchFile => ({
  dirFd,
  data,
  sha256: createHash('sha256').update(data).digest('hex'),
  mode: 0o640,
  owner: null,
  mtimeSec: 1_600_000_000,
  mtimeNsec: 123_456_789,
  temporary: Buffer.from(`.tmp-${name}`),
  name: Buffer.from(name),
  existing: 'keep',
  ...more,
});

test('files come with content, owner, mode and time; sizes around the blocks of SHA-256', async () => {
  const { dir, fd } = folder();
  const sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 4096, 1_000_000];
  const whole = Buffer.alloc(2_000_000, 'content of files ');
  const outcomes = await writeFiles(
    sizes.map((size) =>
      wish(fd, `f${size}`, whole.subarray(size % 100, (size % 100) + size), {
        owner: { uid: 12, gid: 34 },
        mode: 0o4755,
      }),
    ),
  );
  expect(outcomes).toEqual(sizes.map(() => 'written'));
  for (const size of sizes) {
    expect(readFileSync(join(dir, `f${size}`))).toEqual(whole.subarray(size % 100, (size % 100) + size));
    const { mode, uid, gid, mtimeNs } = lstatSync(join(dir, `f${size}`), { bigint: true });
    expect({ mode, uid, gid, mtimeNs }).toEqual({
      mode: 0o104755n,
      uid: 12n,
      gid: 34n,
      mtimeNs: 1_600_000_000_123_456_789n,
    });
  }
  expect(readdirSync(dir).length).toBe(sizes.length);
  expect(await writeFiles([])).toEqual([]);
});

test('what is not what it should be gets no name, and costs the others nothing', async () => {
  const { dir, fd } = folder();
  writeFileSync(join(dir, 'kept'), 'old');
  writeFileSync(join(dir, 'replaced'), 'old');
  writeFileSync(join(dir, 'unexpected'), 'old');
  symlinkSync('kept', join(dir, 'link'));
  mkdirSync(join(dir, 'folder'));
  writeFileSync(join(dir, '.taken'), 'somebody else');
  const data = Buffer.from('new');
  const outcomes = await writeFiles([
    wish(fd, 'altered', data, { sha256: '0'.repeat(64) }),
    wish(fd, 'kept', data),
    wish(fd, 'replaced', data, { existing: 'replace' }),
    wish(fd, 'unexpected', data, { existing: 'replace-unexpected' }),
    wish(fd, 'link', data, { existing: 'replace' }),
    wish(fd, 'folder', data, { existing: 'replace' }),
    wish(fd, 'n'.repeat(256), data),
    wish(fd, 'temporary', data, { temporary: Buffer.from('.taken') }),
    wish(-1, 'nowhere', data),
    wish(fd, 'last', data),
  ]);
  expect(outcomes.map((outcome) => (typeof outcome === 'string' ? outcome : outcome.code))).toEqual([
    'wrong-digest',
    'taken',
    'written',
    'written',
    'written',
    'EISDIR',
    'ENAMETOOLONG',
    'EEXIST',
    'EBADF',
    'written',
  ]);
  const there = readdirSync(dir).sort();
  expect(there).toEqual(['.taken', 'folder', 'kept', 'last', 'link', 'replaced', 'unexpected']);
  expect(there.filter((name) => name !== 'folder').map((name) => readFileSync(join(dir, name), 'utf8'))).toEqual([
    'somebody else',
    'old',
    'new',
    'new',
    'new',
    'new',
  ]);
  expect(lstatSync(join(dir, 'link')).isFile()).toBe(true);
});

test('numbers that do not fit their buffers are refused before anything is done', async () => {
  const { fd } = folder();
  const { loadAddon } = await import('./binaries.ts');
  const addon = loadAddon();
  const numbers = (change: Record<number, number>): Float64Array => {
    const all = Float64Array.from([fd, 0, 0, 3, 0o600, -1, -1, 0, 0, 0, 0, 0, 2]);
    for (const [at, value] of Object.entries(change)) all[Number(at)] = value;
    return all;
  };
  const call = (change: Record<number, number>) => () =>
    addon.writeFiles([Buffer.from('abc')], numbers(change), Buffer.from('t\0n\0'), Buffer.alloc(64, '0'));
  for (const change of [
    { 1: 1 },
    { 1: -1 },
    { 2: 4 },
    { 2: -1 },
    { 3: 4 },
    { 3: -1 },
    { 3: Number.NaN, 2: 4 },
    { 11: 4 },
    { 12: -1 },
    { 12: 99 },
  ])
    expect(call(change), JSON.stringify(change)).toThrow(TypeError);
  expect(() => addon.writeFiles([Buffer.from('abc')], numbers({}), Buffer.from('t\0n'), Buffer.alloc(64))).toThrow(
    TypeError,
  );
  expect(() => addon.writeFiles([Buffer.from('abc')], numbers({}), Buffer.from('t\0n\0'), Buffer.alloc(63))).toThrow(
    TypeError,
  );
  expect(() =>
    addon.writeFiles([Buffer.from('abc')], new Float64Array(5), Buffer.from('t\0n\0'), Buffer.alloc(64)),
  ).toThrow(TypeError);
  expect(await call({})()).toEqual(Int32Array.from([-1]));
});

test('a thread that is ended while batches are under way ends alone', async () => {
  const { dir, fd } = folder();
  for (let turn = 0; turn < 3; turn++) {
    const worker = new Worker(new URL('../test/batch-worker.ts', import.meta.url), { workerData: fd });
    await new Promise((resolve) => worker.once('message', resolve));
    expect(await worker.terminate()).toBe(1);
  }
  // Whatever was begun was finished: a name is there with all of its content, or not at all.
  const names = readdirSync(dir);
  expect(names.filter((name) => name.startsWith('.'))).toEqual([]);
  expect(names.every((name) => lstatSync(join(dir, name)).size === 20_000)).toBe(true);
});
