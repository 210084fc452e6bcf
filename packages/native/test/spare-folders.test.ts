/** Folders that serve one execution after the other: nothing of the last one reaches the next. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  cancelExecution,
  createExecutionFolder,
  readClaim,
  readStatus,
  retireExecutionFolder,
  supervisorAlive,
  voidClaim,
} from '../src/execution-folder.ts';
import { Bench, buildBoth, builds, defaults, type Run, readOutput, until } from './harness.ts';

beforeAll(buildBoth, 120_000);

const over = async (bench: Bench, run: Run): Promise<void> => {
  await bench.status(run);
  await until('the lock', () => !supervisorAlive(run.dir));
};

describe.each(builds)('%s', { timeout: 60_000 }, (build) => {
  const reuse = (bench: Bench, spare: string, id: string, script: string, stdin?: Uint8Array): Run => ({
    id,
    dir: createExecutionFolder(bench.root, id, { ...defaults(), argv: ['/bin/sh', '-c', script] }, stdin, spare),
  });

  test('three executions in one folder: each has its own words, output, input and end, and no file is made anew', async () => {
    await using bench = new Bench(build);
    const secret = Buffer.from('a secret\n');
    const first = bench.sh('cat; echo first; echo err >&2; exit 3', {}, secret);
    await over(bench, first);
    const inodes = (dir: string) =>
      Object.fromEntries(
        ['claim', 'control', 'lock', 'spec', 'status'].map((name) => [name, statSync(join(dir, name)).ino]),
      );
    const before = inodes(first.dir);
    const spare = join(bench.root, 'spare');
    expect(await retireExecutionFolder(first.dir, spare)).toBe(true);
    expect([existsSync(first.dir), readdirSync(spare).sort(), readFileSync(join(spare, 'spec')).length]).toEqual([
      false,
      ['claim', 'claim.tmp', 'control', 'lock', 'spec', 'status'],
      0,
    ]);

    const second = reuse(bench, spare, 'second', 'cat; echo second');
    expect([existsSync(spare), readClaim(second.dir), readStatus(second.dir)]).toEqual([false, null, null]);
    bench.launcher.start(second.dir);
    await over(bench, second);
    expect(readStatus(second.dir)).toMatchObject({ exitCode: 0, stdout: { bytes: 7 }, stderr: { bytes: 0 } });
    expect(String(readOutput(second, 'stdout'))).toBe('second\n');
    expect(inodes(second.dir)).toEqual(before);

    expect(await retireExecutionFolder(second.dir, spare)).toBe(true);
    const third = reuse(bench, spare, 'third', 'cat; sleep 1000', Buffer.from('third\n'));
    bench.launcher.start(third.dir);
    await bench.hint(third, 'output');
    expect(cancelExecution(third.dir)).toBe(true);
    await over(bench, third);
    expect(readStatus(third.dir)).toMatchObject({ outcome: 'signaled', cancelled: true, stdout: { bytes: 6 } });
    expect(String(readOutput(third, 'stdout'))).toBe('third\n');
  });

  test('asked ten times in a folder that served before, it runs once', async () => {
    await using bench = new Bench(build);
    const first = bench.sh('true');
    await over(bench, first);
    const spare = join(bench.root, 'spare');
    expect(await retireExecutionFolder(first.dir, spare)).toBe(true);
    const again = reuse(bench, spare, 'again', `echo ran >>${join(bench.root, 'marker')}`);
    for (let i = 0; i < 10; i++) bench.launcher.start(again.dir);
    await over(bench, again);
    await until(
      'nine refusals',
      () => bench.hints.filter(([id, kind]) => id === 'again' && kind === 'busy').length === 9,
    );
    expect(readFileSync(join(bench.root, 'marker'), 'utf8')).toBe('ran\n');
  });

  test('what was given up, or is still held, serves nobody else', async () => {
    await using bench = new Bench(build);
    const spare = join(bench.root, 'spare');
    const given = bench.prepare(['/bin/true']);
    expect(voidClaim(given.dir)).toBe(true);
    const runs = bench.sh('echo on; sleep 1000');
    await bench.hint(runs, 'output');
    expect([await retireExecutionFolder(given.dir, spare), await retireExecutionFolder(runs.dir, spare)]).toEqual([
      false,
      false,
    ]);
    expect([existsSync(spare), String(readOutput(runs, 'stdout'))]).toEqual([false, 'on\n']);
    cancelExecution(runs.dir);
    await over(bench, runs);
  });

  test('a status that a power cut brought back from the last execution is not believed', async () => {
    await using bench = new Bench(build);
    const first = bench.sh('true');
    await over(bench, first);
    const moved = join(bench.root, 'moved');
    renameSync(first.dir, moved);
    expect(() => readStatus(moved)).toThrow('status is of another execution');
  });

  test('a folder that is there already wins over the spare one', async () => {
    await using bench = new Bench(build);
    const first = bench.sh('true');
    await over(bench, first);
    const spare = join(bench.root, 'spare');
    expect(await retireExecutionFolder(first.dir, spare)).toBe(true);
    mkdirSync(join(bench.root, 'there'));
    const half = createExecutionFolder(bench.root, 'there', { ...defaults(), argv: ['/bin/echo', 'half'] });
    const run = reuse(bench, spare, basename(half), 'echo whole');
    expect(existsSync(spare)).toBe(false);
    bench.launcher.start(run.dir);
    await over(bench, run);
    expect(String(readOutput(run, 'stdout'))).toBe('whole\n');
  });
});
