/** aegis-exec stores exactly the bytes that a command wrote. */
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Bench, binaryOf, buildBoth, builds, collect, readOutput, sha256, until } from './harness.ts';

beforeAll(buildBoth, 120_000);

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  test('64 MiB and 16 MiB of random bytes, both streams at once, arrive whole while the spool is being emptied', async () => {
    await using bench = new Bench(build);
    const run = bench.sh(
      `cd ${bench.root}; head -c 67108864 /dev/urandom >a; head -c 16777216 /dev/urandom >b
       sha256sum <a >a.sum; sha256sum <b >b.sum; cat a & cat b >&2; wait`,
    );
    const [out, err] = await Promise.all([collect(run, 'stdout'), collect(run, 'stderr')]);
    const status = await bench.status(run);
    const told = (name: string): string => readFileSync(join(bench.root, name), 'utf8').slice(0, 64);
    expect([out.sha256, err.sha256]).toEqual([told('a.sum'), told('b.sum')]);
    expect(status.stdout).toEqual({ bytes: 67108864, sha256: told('a.sum') });
    expect(status.stderr).toEqual({ bytes: 16777216, sha256: told('b.sum') });
    expect(Math.max(out.mostOnDisk, err.mostOnDisk)).toBeLessThanOrEqual(8 << 20);
    expect(status).toMatchObject({ outcome: 'exited', exitCode: 0, treeEmpty: true, leftover: 0, killed: false });
  });

  test.each([
    ['no output', 'true', Buffer.alloc(0)],
    ['no final newline', "printf 'a\\nb'", Buffer.from('a\nb')],
    ['invalid UTF-8 and NUL', "printf '\\377\\376\\000\\303('", Buffer.from([0xff, 0xfe, 0, 0xc3, 0x28])],
    ['exactly one segment', 'head -c 1048576 /dev/zero', Buffer.alloc(1 << 20)],
    ['one byte more than a segment', 'head -c 1048577 /dev/zero', Buffer.alloc((1 << 20) + 1)],
  ])('%s', async (_name, script, expected) => {
    await using bench = new Bench(build);
    const run = bench.sh(script);
    const status = await bench.status(run);
    expect(readOutput(run, 'stdout').equals(expected)).toBe(true);
    expect(readOutput(run, 'stderr').length).toBe(0);
    expect(status.stdout).toEqual({ bytes: expected.length, sha256: sha256(expected) });
    expect(status.stderr).toEqual({ bytes: 0, sha256: sha256('') });
  });

  test('opening /dev/stdout anew truncates nothing, as another user too', async () => {
    await using bench = new Bench(build);
    const script = 'echo one; echo two >/dev/stdout; echo three >>/dev/stderr; echo four';
    for (const changes of [{}, { user: 'nobody' }]) {
      const run = bench.sh(script, changes);
      const status = await bench.status(run);
      expect([status.exitCode, String(readOutput(run, 'stdout')), String(readOutput(run, 'stderr'))]).toEqual([
        0,
        'one\ntwo\nfour\n',
        'three\n',
      ]);
    }
  });

  test('segments break exactly at segment_bytes, whatever the sizes of the writes', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('seq 1 20000', { segmentBytes: 1000, spoolBytes: 1_000_000 });
    const status = await bench.status(run);
    const expected = Array.from({ length: 20000 }, (_, i) => `${i + 1}\n`).join('');
    expect(String(readOutput(run, 'stdout'))).toBe(expected);
    expect(status.stdout.sha256).toBe(sha256(expected));
    const sizes = Array.from({ length: Math.ceil(expected.length / 1000) }, (_, i) => {
      const name = `stdout.${String(i * 1000).padStart(20, '0')}`;
      return statSync(join(run.dir, name)).size;
    });
    expect(sizes.slice(0, -1).every((size) => size === 1000)).toBe(true);
  });

  test('the two SHA-256 paths agree, and the version is told', () => {
    execFileSync(binaryOf(build), ['--self-test']);
    expect(String(execFileSync(binaryOf(build), ['--version']))).toBe('aegis-exec 0.1.0\n');
  });

  test('every hash length is right', async () => {
    await using bench = new Bench(build);
    const lengths = [1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000];
    for (const length of lengths) {
      const run = bench.start(['/usr/bin/printf', 'x'.repeat(length)]);
      expect((await bench.status(run)).stdout).toEqual({ bytes: length, sha256: sha256('x'.repeat(length)) });
    }
  });

  test('output goes on, exactly, when launcher and reader of the hints die', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('seq 1 200000; while [ ! -e go ]; do sleep 0.01; done; seq 200001 400000', {
      cwd: bench.root,
    });
    await bench.hint(run, 'output');
    if (bench.launcher.pid === undefined) throw new Error('the launcher did not start');
    process.kill(bench.launcher.pid, 'SIGKILL');
    await bench.launcher.close();
    bench.launcher = bench.startLauncher();
    await bench.status(bench.start(['/bin/touch', join(bench.root, 'go')]));
    const status = await bench.status(run);
    const expected = Array.from({ length: 400000 }, (_, i) => `${i + 1}\n`).join('');
    expect(readOutput(run, 'stdout').equals(Buffer.from(expected))).toBe(true);
    expect(status.stdout.sha256).toBe(sha256(expected));
  });

  test('a command that closes its output runs on', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('exec >&- 2>&-; sleep 0.2; exit 7');
    expect(await bench.status(run)).toMatchObject({ outcome: 'exited', exitCode: 7, treeEmpty: true });
    await until('the hint', () => bench.hints.some(([id, kind]) => id === run.id && kind === 'exited'));
  });
});
