/** Who and where the command is: user, cwd, umask, environment, standard input, signals, descriptors; and failures to start. */
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Bench, buildBoth, builds, readOutput } from './harness.ts';

beforeAll(buildBoth, 120_000);

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  const output = async (bench: Bench, run: { id: string; dir: string }): Promise<string> => {
    const status = await bench.status(run);
    expect([status.error, String(readOutput(run, 'stderr')), status.exitCode]).toEqual([null, '', 0]);
    return String(readOutput(run, 'stdout'));
  };

  test('the environment is exactly the one of the spec, in its order', async () => {
    await using bench = new Bench(build);
    const env = { PATH: '/usr/bin', EMPTY: '', 'odd name': 'a=b=c', LINES: 'x\ny', UTF8: 'zoë' };
    expect(await output(bench, bench.start(['env', '-0'], { env }))).toBe(
      'PATH=/usr/bin\0EMPTY=\0odd name=a=b=c\0LINES=x\ny\0UTF8=zoë\0',
    );
    expect(await output(bench, bench.start(['/usr/bin/env'], { env: {} }))).toBe('');
  });

  test('argv arrives as it is', async () => {
    await using bench = new Bench(build);
    const words = ['', ' ', '$(id)', '*', "'", 'a\nb', '-n', 'zoë'];
    const run = bench.start(['/usr/bin/printf', '[%s]', ...words]);
    expect(await output(bench, run)).toBe(words.map((word) => `[${word}]`).join(''));
  });

  test('cwd, umask and user', async () => {
    await using bench = new Bench(build);
    const dir = join(bench.root, 'work');
    mkdirSync(dir);
    expect(await output(bench, bench.sh('pwd; umask; touch made; mkdir sub', { cwd: dir, umask: 0o027 }))).toBe(
      `${dir}\n0027\n`,
    );
    expect([statSync(join(dir, 'made')).mode & 0o777, statSync(join(dir, 'sub')).mode & 0o777]).toEqual([0o640, 0o750]);
    expect(await output(bench, bench.sh('pwd; umask; id -u'))).toBe('/\n0022\n0\n');
    const who = 'id -un; id -u; id -G; grep -E "^(Uid|Gid|CapEff):" /proc/self/status | tr -s "\\t" " "';
    const nobody =
      'nobody\n65534\n65534\nUid: 65534 65534 65534 65534\nGid: 65534 65534 65534 65534\nCapEff: 0000000000000000\n';
    expect(await output(bench, bench.sh(who, { user: 'nobody' }))).toBe(nobody);
    expect(await output(bench, bench.sh(who, { user: '65534' }))).toBe(nobody);
    expect(await output(bench, bench.sh('id -u', { user: 'root' }))).toBe('0\n');
  });

  test("the daemon's own limits are not the command's: soft limit of files, OOM protection", async () => {
    await using bench = new Bench(build);
    // Node.js raises its own soft limit to the hard one, so without the reset this would be that number.
    expect(await output(bench, bench.sh('ulimit -Sn; ulimit -n 1025; ulimit -Sn; cat /proc/self/oom_score_adj'))).toBe(
      '1024\n1025\n0\n',
    );
  });

  test('standard input is the given bytes, or empty', async () => {
    await using bench = new Bench(build);
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 256));
    const run = bench.start(['/bin/cat'], {}, bytes);
    await bench.status(run);
    expect(readOutput(run, 'stdout').equals(bytes)).toBe(true);
    expect(await output(bench, bench.start(['/bin/cat']))).toBe('');
    expect(await output(bench, bench.sh('cat /dev/stdin', { user: 'nobody' }, Buffer.from('for nobody')))).toBe(
      'for nobody',
    );
    expect(await output(bench, bench.sh('cat', {}, Buffer.alloc(0)))).toBe('');
  });

  test('no descriptor, signal mask or session of the supervisor is inherited', async () => {
    await using bench = new Bench(build);
    const script = `
      import os, signal
      print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)))
      print(os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid())
      print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('SigBlk', 'SigIgn'))])
    `.replaceAll('\n      ', '\n');
    // Python itself ignores SIGPIPE and SIGXFSZ; -I would not change that, so a shell looks instead.
    const sh = 'grep -E "^Sig(Blk|Ign)" /proc/self/status | tr -d "\\t"; ls /proc/self/fd | tr "\\n" " "';
    expect(await output(bench, bench.sh(sh))).toBe('SigBlk:0000000000000000\nSigIgn:0000000000000000\n0 1 2 3 ');
    const told = (await output(bench, bench.start(['/usr/bin/python3', '-c', script]))).split('\n');
    expect(told.slice(0, 2)).toEqual(['[0, 1, 2]', 'True True']);
  });

  test('what cannot be started says why, with the code a shell would give', async () => {
    await using bench = new Bench(build);
    const plain = join(bench.root, 'plain');
    const lost = join(bench.root, 'lost');
    const unnamed = join(bench.root, 'unnamed');
    const hidden = join(bench.root, 'hidden');
    writeFileSync(plain, 'echo no');
    writeFileSync(lost, '#!/no/such/interpreter\n', { mode: 0o755 });
    writeFileSync(unnamed, 'echo "by sh: $1"\n', { mode: 0o755 });
    mkdirSync(hidden, { mode: 0o700 });
    chmodSync(bench.root, 0o755);
    const cases: [string[], object, number, string][] = [
      [['aegis-no-such-program'], {}, 127, "cannot find 'aegis-no-such-program' in PATH"],
      [['/no/such'], {}, 127, "cannot execute '/no/such': No such file or directory"],
      [[plain], {}, 126, `cannot execute '${plain}': Permission denied`],
      [['/'], {}, 126, "cannot execute '/': Permission denied"],
      [[lost], {}, 127, `cannot execute '${lost}': No such file or directory`],
      [[''], {}, 127, "cannot find '' in PATH"],
      [['true'], { cwd: '/nope' }, 126, "cannot change to '/nope': No such file or directory"],
      [['true'], { cwd: '/etc/passwd' }, 126, "cannot change to '/etc/passwd': Not a directory"],
      [['true'], { cwd: hidden, user: 'nobody' }, 126, `cannot change to '${hidden}': Permission denied`],
      [['true'], { user: 'no-such-user' }, 126, "there is no user 'no-such-user' on this node"],
      [['true'], { user: '4211' }, 126, "there is no user '4211' on this node"],
      [['true', 'x'.repeat(3 << 20)], {}, 126, "cannot execute 'true': Argument list too long"],
      [['a\x01"\\zoë'], {}, 127, `cannot find 'a\x01"\\zoë' in PATH`],
    ];
    for (const [argv, changes, exitCode, error] of cases) {
      const run = bench.start(argv, changes);
      const status = await bench.status(run);
      expect(status).toMatchObject({
        outcome: 'spawn_failed',
        exitCode,
        signal: null,
        error,
        treeEmpty: true,
        stdout: { bytes: 0 },
      });
      await bench.hint(run, 'claimed');
    }
    expect(await output(bench, bench.start([unnamed, 'x']))).toBe('by sh: x\n');
    expect(existsSync(plain)).toBe(true);
  });

  test('exit codes and signals', async () => {
    await using bench = new Bench(build);
    for (const code of [0, 1, 42, 126, 127, 255]) {
      expect(await bench.status(bench.sh(`exit ${code}`))).toMatchObject({
        outcome: 'exited',
        exitCode: code,
        signal: null,
        error: null,
      });
    }
    for (const signal of [1, 2, 9, 13, 15]) {
      expect(await bench.status(bench.sh(`kill -${signal} $$`))).toMatchObject({
        outcome: 'signaled',
        exitCode: null,
        signal,
      });
    }
  });

  test('use of the processor and of memory is reported, of orphans too', async () => {
    await using bench = new Bench(build);
    const script =
      'import os\nif os.fork() == 0:\n  if os.fork(): os._exit(0)\n  b = bytearray(40 << 20)\n  sum(range(3000000))\nelse: os.wait()';
    const { usage, durationMs } = await bench.status(bench.start(['/usr/bin/python3', '-c', script]));
    expect(usage.maxRssKb).toBeGreaterThan(40_000);
    expect(usage.userUs).toBeGreaterThan(10_000);
    expect(durationMs).toBeGreaterThanOrEqual(0);
  });
});
