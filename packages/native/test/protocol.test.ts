/** Start at most once; liveness is a lock; refusals leave an execution free. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { readBootId } from '../src/boot-id.ts';
import {
  cancelExecution,
  createExecutionFolder,
  readClaim,
  readStatus,
  supervisorAlive,
  voidClaim,
} from '../src/execution-folder.ts';
import { Bench, buildBoth, builds, defaults, markEnv, marked, readOutput, until } from './harness.ts';

beforeAll(buildBoth, 120_000);

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  test('the life of an execution, seen from its folder', async () => {
    await using bench = new Bench(build);
    const run = bench.prepare(['/bin/sh', '-c', 'while [ ! -e go ]; do sleep 0.01; done; echo done'], {
      cwd: bench.root,
    });
    expect([readClaim(run.dir), readStatus(run.dir), supervisorAlive(run.dir), cancelExecution(run.dir)]).toEqual([
      null,
      null,
      false,
      false,
    ]);
    const before = Date.now();
    bench.launcher.start(run.dir);
    expect(await bench.hint(run, 'claimed')).toBe('');
    const claim = readClaim(run.dir);
    expect(claim).toEqual({ kind: 'started', bootId: readBootId(), startedAtMs: expect.any(Number) });
    expect([readStatus(run.dir), supervisorAlive(run.dir), voidClaim(run.dir)]).toEqual([null, true, false]);
    writeFileSync(join(bench.root, 'go'), '');
    await bench.hint(run, 'exited');
    const status = await bench.status(run);
    await until('the lock', () => !supervisorAlive(run.dir));
    expect(cancelExecution(run.dir)).toBe(false);
    expect(status).toMatchObject({ outcome: 'exited', exitCode: 0, signal: null, error: null, stderr: { bytes: 0 } });
    expect(status.startedAtMs).toBeGreaterThanOrEqual(before);
    expect(status.finishedAtMs).toBeGreaterThanOrEqual(status.startedAtMs);
    const hints = bench.hints.filter(([id]) => id === run.id).map(([, kind]) => kind);
    expect(hints).toEqual(['claimed', 'output', 'exited']);
    expect(readdirSync(run.dir).sort()).toEqual([
      'claim',
      'claim.tmp',
      'control',
      'lock',
      'spec',
      'status',
      `stdout.${'0'.repeat(20)}`,
    ]);
  });

  test('asked ten times, it runs once', async () => {
    await using bench = new Bench(build);
    const run = bench.prepare(['/bin/sh', '-c', 'echo ran >>marker; sleep 0.2'], { cwd: bench.root });
    for (let i = 0; i < 10; i++) bench.launcher.start(run.dir);
    await bench.status(run);
    bench.launcher.start(run.dir);
    await until(
      'ten refusals',
      () => bench.hints.filter(([id, kind]) => id === run.id && kind === 'busy').length === 10,
    );
    expect(readFileSync(join(bench.root, 'marker'), 'utf8')).toBe('ran\n');
  });

  test('what was voided never runs', async () => {
    await using bench = new Bench(build);
    const run = bench.prepare(['/bin/touch', join(bench.root, 'marker')]);
    expect([voidClaim(run.dir), voidClaim(run.dir), readClaim(run.dir)]).toEqual([true, true, { kind: 'void' }]);
    bench.launcher.start(run.dir);
    await bench.hint(run, 'busy');
    expect([existsSync(join(bench.root, 'marker')), readStatus(run.dir)]).toEqual([false, null]);
  });

  test('void and start at once: exactly one of them wins', async () => {
    await using bench = new Bench(build);
    for (let i = 0; i < 20; i++) {
      const marker = join(bench.root, `marker-${i}`);
      const run = bench.start(['/bin/touch', marker]);
      if (i % 2 === 1) await until('the supervisor', () => existsSync(join(run.dir, 'lock')));
      const given = voidClaim(run.dir);
      if (given) await bench.hint(run, 'busy');
      else await bench.status(run);
      expect(existsSync(marker)).toBe(!given);
    }
  });

  test('kill -9 of the supervisor frees the lock and leaves no status, and no second start', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh('echo $PPID; exec sleep 1000', { env });
    await bench.hint(run, 'output');
    expect(supervisorAlive(run.dir)).toBe(true);
    process.kill(Number(readOutput(run, 'stdout')), 'SIGKILL');
    await until('the lock', () => !supervisorAlive(run.dir));
    expect([readStatus(run.dir), cancelExecution(run.dir), readClaim(run.dir)?.kind]).toEqual([null, false, 'started']);
    bench.launcher.start(run.dir);
    await bench.hint(run, 'busy');
    for (const pid of marked(mark)) process.kill(pid, 'SIGKILL');
  });

  test('the supervisor ignores SIGTERM, the command does not', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; kill -TERM $$; sleep 1000');
    expect(await bench.status(run)).toMatchObject({
      outcome: 'signaled',
      signal: 15,
      exitCode: null,
      cancelled: false,
    });
  });

  test('createExecutionFolder repairs what was never claimed and leaves alone what was', async () => {
    await using bench = new Bench(build);
    const spec = { ...defaults(), argv: ['/bin/echo', 'new'] };
    const half = join(bench.root, 'half');
    mkdirSync(half, { mode: 0o755 });
    writeFileSync(join(half, 'spec'), 'argv=/bin/ec');
    writeFileSync(join(half, 'spec.tmp'), 'x');
    const run = { id: 'half', dir: createExecutionFolder(bench.root, 'half', spec) };
    bench.launcher.start(run.dir);
    await bench.status(run);
    createExecutionFolder(bench.root, 'half', { ...spec, argv: ['/bin/echo', 'other'] });
    expect(readFileSync(join(half, 'spec'), 'utf8')).toContain('argv=new\0');
    expect(String(readOutput(run, 'stdout'))).toBe('new\n');
  });

  test.each([
    ['an unknown key', 'nope=1\0', "spec: unknown key 'nope'"],
    ['a record without =', 'argv\0', "spec: a record without '='"],
    ['a key twice', 'cwd=/\0', "spec: 'cwd' occurs twice"],
    ['a bad number', 'timeout_ms=1e3\0', "spec: bad value for 'timeout_ms'"],
    ['an endless number', 'timeout_ms=99999999999999999999999\0', "spec: bad value for 'timeout_ms'"],
    ['a bad umask', 'umask=8\0', "spec: bad value for 'umask'"],
    ['a relative cgroup', 'cgroup=x\0', "spec: bad value for 'cgroup'"],
    ['a nameless variable', 'env==x\0', 'spec: an env record that is not NAME=value'],
    ['an end without NUL', 'user=root', 'spec is cut off: its last record has no end'],
  ])('%s in the spec is refused and claims nothing', async (_name, extra, message) => {
    await using bench = new Bench(build);
    const run = bench.prepare(['/bin/true']);
    const base = 'argv=/bin/true\0cwd=/\0boot_id=b\0spool_bytes=10\0segment_bytes=5\0';
    writeFileSync(join(run.dir, 'spec'), base + extra);
    bench.launcher.start(run.dir);
    expect(await bench.hint(run, 'failed')).toBe(message);
    expect([readClaim(run.dir), existsSync(join(run.dir, 'status.tmp'))]).toEqual([null, false]);
  });

  test('other broken folders are refused with a reason', async () => {
    await using bench = new Bench(build);
    const base = 'argv=/bin/true\0boot_id=b\0';
    const cases: [(dir: string) => void, string][] = [
      [(dir) => writeFileSync(join(dir, 'spec'), 'boot_id=b\0'), 'spec: no argv'],
      [(dir) => writeFileSync(join(dir, 'spec'), ''), 'spec is cut off: its last record has no end'],
      [
        (dir) => writeFileSync(join(dir, 'spec'), `${base}spool_bytes=4\0segment_bytes=5\0`),
        'spec: spool_bytes must be 1 to 1024 times segment_bytes',
      ],
      [
        (dir) => writeFileSync(join(dir, 'spec'), `${base}spool_bytes=4\0segment_bytes=0\0`),
        'spec: spool_bytes must be 1 to 1024 times segment_bytes',
      ],
      [
        (dir) => appendFileSync(join(dir, 'spec'), Buffer.alloc(9 << 20)),
        'spec is not a file of at most 8388608 bytes',
      ],
      [(dir) => unlinkSync(join(dir, 'spec')), 'cannot open spec: No such file or directory'],
      [
        (dir) => {
          unlinkSync(join(dir, 'spec'));
          symlinkSync('/etc/passwd', join(dir, 'spec'));
        },
        'cannot open spec: Too many levels of symbolic links',
      ],
      [(dir) => writeFileSync(join(dir, 'control'), ''), 'control is not a FIFO'],
      [
        (dir) => symlinkSync('/dev/null', join(dir, 'lock')),
        'cannot lock the folder: Too many levels of symbolic links',
      ],
      [(dir) => rmSync(dir, { recursive: true }), 'there is no such folder'],
    ];
    for (const [damage, message] of cases) {
      const run = bench.prepare(['/bin/true']);
      damage(run.dir);
      bench.launcher.start(run.dir);
      expect(await bench.hint(run, 'failed')).toBe(message);
      expect(readClaim(run.dir)).toBe(null);
    }
  });

  test('the launcher survives any request', async () => {
    await using bench = new Bench(build);
    const link = join(bench.root, 'link');
    const real = bench.prepare(['/bin/true']);
    symlinkSync(real.dir, link);
    for (const request of ['relative/id', '/', '', `/${'x'.repeat(5000)}`, '/tmp/bad name', '/tmp/-x', link])
      bench.launcher.start(request);
    bench.launcher.start('/tmp/a\nstart /tmp/b');
    const reasons = await until('all refusals', () =>
      bench.hints.length === 8 ? bench.hints.map(([, kind]) => kind) : null,
    );
    expect(reasons).toEqual(Array.from({ length: 8 }, () => 'failed'));
    bench.launcher.start(real.dir);
    expect(await bench.status(real)).toMatchObject({ exitCode: 0 });
  });
});
