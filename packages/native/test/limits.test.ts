/** Bounds: a full spool or disk slows the command and loses nothing; many starts leak nothing. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { cancelExecution, listSegments, readStatus, removeExecutionFolder } from '../src/execution-folder.ts';
import { Bench, buildBoth, builds, collect, markEnv, marked, readOutput, sha256, until } from './harness.ts';

beforeAll(buildBoth, 120_000);

const seq = (last: number): string => Array.from({ length: last }, (_, i) => `${i + 1}\n`).join('');
const onDisk = (dir: string): number => listSegments(dir, 'stdout').reduce((sum, segment) => sum + segment.bytes, 0);

/** A tmpfs of its own for one test. */
const smallDisk = (root: string, size: string): { path: string } & Disposable => {
  const path = join(root, 'disk');
  mkdirSync(path);
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', path]);
  return { path, [Symbol.dispose]: () => execFileSync('umount', ['-l', path]) };
};

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  test('a slow reader of a small spool gets everything and the bound holds', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('seq 1 1500000', { spoolBytes: 2_500_000 });
    await until('a full spool', () => onDisk(run.dir) === 2_500_000);
    const out = await collect(run, 'stdout', 10);
    const expected = seq(1_500_000);
    expect(out).toEqual({ bytes: expected.length, sha256: sha256(expected), mostOnDisk: out.mostOnDisk });
    expect(out.mostOnDisk).toBe(2_500_000);
    expect((await bench.status(run)).stdout).toEqual({ bytes: expected.length, sha256: sha256(expected) });
  });

  test('a full spool stops one stream only, and holds the status back until all is stored', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('head -c 3000000 /dev/zero & seq 1 1000 >&2; wait', { spoolBytes: 1 << 20, drainMs: 0 });
    await until('a full stdout', () => onDisk(run.dir) === 1 << 20);
    await until('all of stderr', () => readOutput(run, 'stderr').length === seq(1000).length);
    expect(readStatus(run.dir)).toBe(null);
    expect(await collect(run, 'stdout')).toMatchObject({ bytes: 3_000_000, sha256: sha256(Buffer.alloc(3_000_000)) });
    expect(await bench.status(run)).toMatchObject({ stdout: { bytes: 3_000_000 }, exitCode: 0, treeEmpty: true });
  });

  test('timeout and cancel work while the spool is full, and what was written before is kept', async () => {
    await using bench = new Bench(build);
    for (const how of ['timeout', 'cancel'] as const) {
      const run = bench.sh('yes', { spoolBytes: 1 << 20, timeoutMs: how === 'timeout' ? 500 : 0 });
      await until('a full spool', () => onDisk(run.dir) === 1 << 20);
      if (how === 'cancel') expect(cancelExecution(run.dir)).toBe(true);
      const out = await collect(run, 'stdout');
      const status = await bench.status(run);
      expect(status.stdout).toEqual({ bytes: out.bytes, sha256: out.sha256 });
      expect([status.timedOut, status.cancelled, status.treeEmpty, status.signal]).toEqual([
        how === 'timeout',
        how === 'cancel',
        true,
        15,
      ]);
    }
  });

  test('segments may be unlinked in any order', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('head -c 6000000 /dev/zero', { spoolBytes: 3 << 20 });
    await until('a full spool', () => onDisk(run.dir) === 3 << 20);
    rmSync(join(run.dir, `stdout.${String(1 << 20).padStart(20, '0')}`));
    await until('a fourth segment', () =>
      listSegments(run.dir, 'stdout').some((segment) => segment.offset === 3 << 20),
    );
    for (const segment of listSegments(run.dir, 'stdout').filter((s) => s.complete)) rmSync(segment.path);
    expect((await bench.status(run)).stdout).toEqual({ bytes: 6_000_000, sha256: sha256(Buffer.alloc(6_000_000)) });
  });

  test('a full disk slows the command, which then completes exactly', async () => {
    await using bench = new Bench(build);
    using disk = smallDisk(bench.root, '2m');
    const filler = join(disk.path, 'filler');
    writeFileSync(filler, Buffer.alloc(1 << 20));
    const run = bench.start(['/usr/bin/seq', '1', '200000'], {}, undefined, disk.path);
    await until('a full disk', () => statfsSync(disk.path).bfree === 0);
    await delay(250); // so that several attempts fail; what is asserted does not depend on it
    expect(readStatus(run.dir)).toBe(null);
    rmSync(filler);
    const status = await bench.status(run);
    expect(status.stdout).toEqual({ bytes: seq(200000).length, sha256: sha256(seq(200000)) });
    expect(String(readOutput(run, 'stdout'))).toBe(seq(200000));
  });

  test('the status is written on a disk without any room, and no start happens there', async () => {
    await using bench = new Bench(build);
    using disk = smallDisk(bench.root, '1m');
    const run = bench.start(
      ['/bin/sh', '-c', `while [ ! -e ${bench.root}/go ]; do sleep 0.01; done; exit 5`],
      {},
      undefined,
      disk.path,
    );
    await bench.hint(run, 'claimed');
    const late = bench.prepare(['/bin/true'], {}, undefined, disk.path);
    const filler = join(disk.path, 'filler');
    try {
      writeFileSync(filler, Buffer.alloc(2 << 20));
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' });
    }
    expect(statfsSync(disk.path).bfree).toBe(0);
    writeFileSync(join(bench.root, 'go'), '');
    expect(await bench.status(run)).toMatchObject({ outcome: 'exited', exitCode: 5 });
    bench.launcher.start(late.dir);
    expect(await bench.hint(late, 'failed')).toBe('cannot reserve room for the status: No space left on device');
    rmSync(filler);
    bench.launcher.start(late.dir);
    expect(await bench.status(late)).toMatchObject({ exitCode: 0 });
  });

  test('a removed folder ends its command', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh('yes', { env, spoolBytes: 1 << 20 });
    await until('a full spool', () => onDisk(run.dir) === 1 << 20);
    removeExecutionFolder(run.dir);
    await until('nobody', () => marked(mark).length === 0);
  });

  test('many starts leak no descriptor, no zombie and no memory in the launcher', async () => {
    await using bench = new Bench(build);
    const pid = bench.launcher.pid;
    if (pid === undefined) throw new Error('the launcher did not start');
    const batch = async (count: number): Promise<void> => {
      const runs = Array.from({ length: count }, () => bench.start(['/bin/true']));
      for (const run of runs) expect((await bench.status(run)).exitCode).toBe(0);
    };
    const measure = (): { fds: number; anonymousKb: number } => ({
      fds: readdirSync(`/proc/${pid}/fd`).length,
      // Counted page by page: the sums of /proc/pid/status are approximate on several processors.
      anonymousKb: Number(/^Anonymous:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]),
    });
    await batch(50);
    const before = measure();
    for (let i = 0; i < (build === 'Release' ? 10 : 2); i++) await batch(100);
    await until('no child', () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8') === '');
    expect(measure()).toEqual(before);
  });
});
