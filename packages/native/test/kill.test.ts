/** Killed means gone: the whole tree, and nobody else. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { cancelExecution } from '../src/execution-folder.ts';
import {
  Bench,
  binaryOf,
  buildBoth,
  builds,
  collect,
  markEnv,
  marked,
  procFile,
  readOutput,
  until,
} from './harness.ts';

beforeAll(buildBoth, 120_000);

/** Forks, double-forks with setsid, ignores SIGTERM, holds the pipes, has stopped members and two levels below a new session. */
const STUBBORN = `
trap '' TERM HUP INT
sleep 1000 &
(setsid sh -c 'sleep 1000 & (setsid sleep 1000 &); sleep 1000' &)
(sh -c 'kill -STOP $$; sleep 1000' &)
(nohup sleep 1000 >/dev/null 2>&1 &)
echo ready
sleep 1000`;

/** By then it has set its traps, on a busy machine and under a sanitizer too: they are what is tested. */
const GROWN_MS = 2000;

/** Eight chains in which every process starts a successor in a new session and ends. They give up by themselves after 20 s. */
const STORM = `
import os, time
end = time.time() + 20
for _ in range(8):
    if os.fork() == 0:
        while time.time() < end:
            if os.fork(): os._exit(0)
            os.setsid()
        os._exit(0)
print('ready', flush=True)
time.sleep(20)`;

const stateOf = (pid: number): string | undefined => /\) (\S)/.exec(procFile(pid, 'stat'))?.[1];

/** A writable cgroup2 folder: one that is mounted, or a mount of our own. */
const cgroupRoot = (): { path: string } & Disposable => {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , , mount, options] = before.split(' ');
    if (after.startsWith('cgroup2 ') && mount && options?.startsWith('rw')) return makeCgroup(mount, () => undefined);
  }
  const mount = mkdtempSync(join(tmpdir(), 'aegis-cgroup-'));
  execFileSync('mount', ['-t', 'cgroup2', 'none', mount]);
  return makeCgroup(mount, () => {
    execFileSync('umount', [mount]);
    rmdirSync(mount);
  });
};

const makeCgroup = (mount: string, unmount: () => void): { path: string } & Disposable => {
  const path = join(mount, `aegis-test-${process.pid}-${Date.now()}`);
  mkdirSync(path);
  return {
    path,
    [Symbol.dispose]: () => {
      rmdirSync(path);
      unmount();
    },
  };
};

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  test.each(['timeout', 'cancel'] as const)('after a %s nobody of a stubborn tree is left', async (how) => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh(STUBBORN, { env, timeoutMs: how === 'timeout' ? GROWN_MS : 0 });
    await bench.hint(run, 'output');
    if (how === 'cancel') {
      await until('the whole tree', () => marked(mark).length >= 8);
      expect(cancelExecution(run.dir)).toBe(true);
      expect(cancelExecution(run.dir)).toBe(true);
    }
    const status = await bench.status(run);
    expect(marked(mark)).toEqual([]);
    expect(status).toMatchObject({ outcome: 'signaled', signal: 9, treeEmpty: true, leftover: 0, killed: true });
    expect([status.timedOut, status.cancelled]).toEqual([how === 'timeout', how === 'cancel']);
    expect(String(readOutput(run, 'stdout'))).toBe('ready\n');
  });

  // Ten times: whether a process is missed depends on who dies while the tree is being walked.
  test('a tree that obeys SIGTERM needs no SIGKILL, stopped members and grandchildren included', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const script = `
      (sh -c 'trap "echo deep; exit 0" TERM; echo up; while :; do sleep 0.02; done' &)
      sh -c 'kill -STOP $$' &
      trap 'echo main; exit 3' TERM; echo up; while :; do sleep 0.02; done`;
    for (let i = 0; i < 10; i++) {
      const run = bench.sh(script, { env, graceMs: 20_000 });
      await until('both to be ready', () => String(readOutput(run, 'stdout')) === 'up\nup\n');
      await until('a stopped process', () => marked(mark).some((pid) => stateOf(pid) === 'T'));
      cancelExecution(run.dir);
      const status = await bench.status(run);
      expect(status).toMatchObject({ outcome: 'exited', exitCode: 3, cancelled: true, killed: false, treeEmpty: true });
      expect(String(readOutput(run, 'stdout')).trim().split('\n').sort()).toEqual(['deep', 'main', 'up', 'up']);
    }
  });

  test.each([0, 200])('a fork storm of sessions ends (grace %i ms)', async (graceMs) => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.start(['/usr/bin/python3', '-c', STORM], { env, timeoutMs: 600, graceMs });
    const status = await bench.status(run);
    expect(marked(mark)).toEqual([]);
    expect(status).toMatchObject({ outcome: 'signaled', timedOut: true, treeEmpty: true });
  });

  test('the command has ended but a left-over ignores a cancel: it goes, and the exit code stays', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh(`(trap '' TERM; setsid sleep 1000 &); echo out; exit 4`, { env, drainMs: 60_000 });
    await bench.hint(run, 'output');
    await until('the left-over alone', () => marked(mark).length === 1);
    cancelExecution(run.dir);
    const status = await bench.status(run);
    expect(status).toMatchObject({ outcome: 'exited', exitCode: 4, cancelled: false, killed: true, treeEmpty: true });
    expect(marked(mark)).toEqual([]);
  });

  test('after a normal end left-overs live on and are reported', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh('sleep 1000 & (setsid sleep 1000 >/dev/null 2>&1 &); echo out', { env });
    const status = await bench.status(run);
    expect(status).toMatchObject({ outcome: 'exited', exitCode: 0, treeEmpty: false, leftover: 2, killed: false });
    expect(String(readOutput(run, 'stdout'))).toBe('out\n');
    const left = marked(mark);
    expect(left.length).toBe(2);
    for (const pid of left) process.kill(pid, 'SIGKILL');
  });

  test('a daemonising command that lets go of its pipes does not hold up the status', async () => {
    await using bench = new Bench(build);
    const { mark, env } = markEnv();
    const run = bench.sh('setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 0', { env, drainMs: 600_000 });
    expect(await bench.status(run)).toMatchObject({ exitCode: 0, treeEmpty: false, leftover: 1 });
    for (const pid of marked(mark)) process.kill(pid, 'SIGKILL');
  });

  test('a left-over that writes for ever is cut off after drain_ms, and what it wrote until then is kept', async () => {
    await using bench = new Bench(build);
    const run = bench.sh('echo start; yes & exit 3', { spoolBytes: 1 << 30, drainMs: 100 });
    const out = await collect(run, 'stdout');
    const status = await bench.status(run);
    expect(status).toMatchObject({ exitCode: 3, stdout: { bytes: out.bytes, sha256: out.sha256 } });
  });

  test('with a cgroup the command is alone in it, and it is removed', async () => {
    await using bench = new Bench(build);
    using root = cgroupRoot();
    const { mark, env } = markEnv();
    const quick = bench.sh('grep ^0:: /proc/self/cgroup; grep ^0:: /proc/$PPID/cgroup', { cgroup: root.path });
    await bench.status(quick);
    const [command, supervisor] = String(readOutput(quick, 'stdout')).trim().split('\n');
    expect(command?.endsWith(`/exec-${quick.id}`)).toBe(true);
    expect(supervisor?.includes('exec-')).toBe(false);
    expect(existsSync(join(root.path, `exec-${quick.id}`))).toBe(false);

    const script = `mkdir ${root.path}/exec-*/inner; echo $$ >$(echo ${root.path}/exec-*/inner)/cgroup.procs; ${STUBBORN}`;
    const run = bench.sh(script, { env, cgroup: root.path, timeoutMs: GROWN_MS });
    const status = await bench.status(run);
    expect(marked(mark)).toEqual([]);
    expect(status).toMatchObject({ signal: 9, timedOut: true, treeEmpty: true, killed: true });
    expect(existsSync(join(root.path, `exec-${run.id}`))).toBe(false);
  });

  test('a cgroup folder that is none is no obstacle', async () => {
    await using bench = new Bench(build);
    const runs = ['/nowhere', bench.root].map((cgroup) => bench.sh('exit 0', { cgroup }));
    for (const run of runs) expect(await bench.status(run)).toMatchObject({ exitCode: 0 });
  });

  test('a process that got the recycled pid of the command is not signalled', async () => {
    await using bench = new Bench(build);
    // A pid namespace of its own, in which the next pid can be chosen. The command ends, a left-over holds its pipe, a
    // stranger gets the command's pid and group; then a cancel takes the left-over.
    const run = bench.prepare(['/bin/sh', '-c', `echo $$; (trap '' TERM; setsid sleep 1000 &); exit 0`], {
      drainMs: 60_000,
    });
    const script = `
      set -eu; binary=$1; dir=$2; out=$dir/stdout.00000000000000000000
      "$binary" --run "$dir" >/dev/null & supervisor=$!
      while [ ! -s "$out" ]; do sleep 0.01; done
      pid=$(cat "$out")
      while [ -e /proc/$pid ]; do sleep 0.01; done
      for try in $(seq 1 200); do
        echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
        setsid sleep 1000 </dev/null >/dev/null 2>&1 & stranger=$!
        [ $stranger = $pid ] && break
        kill -9 $stranger
      done
      [ $stranger = $pid ] || { echo "pid $pid was not given again"; exit 1; }
      printf c >"$dir/control"
      wait $supervisor
      kill -0 $stranger && echo alive`;
    const args = [
      '--pid',
      '--fork',
      '--mount-proc',
      '--kill-child',
      '/bin/sh',
      '-c',
      script,
      'sh',
      binaryOf(build),
      run.dir,
    ];
    const told = execFileSync('unshare', args, {
      env: { ...process.env, ...bench.sanitizerEnv() },
      timeout: 30_000,
      killSignal: 'SIGKILL',
    });
    expect(String(told)).toBe('alive\n');
    expect(await bench.status(run)).toMatchObject({ outcome: 'exited', exitCode: 0, killed: true, treeEmpty: true });
  });
});
