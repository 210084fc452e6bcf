import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import type { Program } from '../src/program.ts';
import type { AttachPoint } from '../src/types.ts';
import { bpftool, run, until } from './commands.ts';
import { counters, dump, linkIsGone, linkShown, list, load, record } from './fixture.ts';
import { hasKprobes, hasTrampolines, hasUprobes, securityModules } from './kernel-facts.ts';
import { makePins } from './pins.ts';
import { compileC } from './programs.ts';

/** Each kind that traces: attached, seen by bpftool, run, detached; or refused as unsupported where the kernel is without it. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-trace-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A program's own name, of at most 15 bytes: others may run the same tests. */
const unique = (name: string): string => `${name}-${randomBytes(3).toString('hex')}`;

const ADDER = `
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) int add_up(int left, int right) { return left + right; }
int main(int count, char **words) {
  printf("%d", add_up(atoi(words[1]), atoi(words[2])));
  return 0;
}`;

/** Globals of a program's .bss by name. */
const bss = async (program: Program, map: string) => {
  const [entry] = await dump(program, map);
  return Object.assign({}, ...list(record(record(entry).value)['.bss']).map(record)) as Record<string, unknown>;
};

const idOf = (attachment: { links: readonly { info(): { id: number; programId: number } }[] }): number =>
  attachment.links[0]?.info().id ?? 0;

test('tracepoint and raw_tracepoint: both see an execution', async () => {
  const name = 'aegis-adder';
  const adder = compileC(folder, name, ADDER);
  const points = [
    ['on_exec', { kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' }],
    ['on_exec_raw', { kind: 'raw_tracepoint', name: 'sched_process_exec' }],
  ] as const;
  const specs = points.map(([name, point]) => ({ name, attach: point }));
  using object = await load('attach_tracepoint', specs, { wanted: adder });
  const program = object.program('on_exec');
  const ids: number[] = [];
  {
    using stack = new DisposableStack();
    for (const [name, point] of points) {
      const attachment = stack.use(await attach(object.program(name), point));
      ids.push(idOf(attachment));
      expect((await linkShown(idOf(attachment))).prog_id).toBe(object.program(name).id);
    }
    expect((await linkShown(ids[1] ?? 0)).tp_name).toBe('sched_process_exec');
    expect(await run([adder, '2', '3'])).toBe('5');
    expect(await counters(program)).toEqual({ 0: 1, 1: 1 });
    expect(await bss(program, 'attach_t.bss')).toMatchObject({ seen_file: adder });
  }
  for (const id of ids) expect(await linkIsGone(id)).toBe(true);
  await run([adder, '2', '3']);
  expect(await counters(program)).toEqual({ 0: 1, 1: 1 });
});

test('a tracepoint that is not there is said to be missing', async () => {
  for (const point of [
    { kind: 'tracepoint', category: 'sched', name: 'no_such_event' },
    { kind: 'raw_tracepoint', name: 'no_such_event' },
  ] as const) {
    const name = point.kind === 'tracepoint' ? 'on_exec' : 'on_exec_raw';
    using object = await load('attach_tracepoint', [{ name, attach: point }]);
    await expect(attach(object.program(name), point)).rejects.toMatchObject({ code: 'bpf.no_such_target' });
  }
});

const unsupported = async (program: Program, point: AttachPoint): Promise<void> => {
  await expect(attach(program, point)).rejects.toMatchObject({
    code: 'bpf.unsupported',
    details: { since: expect.stringMatching(/^\d+\.\d+$/), kind: point.kind },
  });
};

test('kprobe and kretprobe: where the kernel has them they run, elsewhere they are unsupported', async () => {
  const entry = { kind: 'kprobe', symbol: 'do_unlinkat', offset: 0 } as const;
  const exit = { kind: 'kretprobe', symbol: 'do_unlinkat', offset: 0 } as const;
  using object = await load('attach_kprobe', [
    { name: 'on_entry', attach: entry },
    { name: 'on_return', attach: exit },
  ]);
  const program = object.program('on_entry');
  if (!hasKprobes()) {
    await unsupported(program, entry);
    await unsupported(object.program('on_return'), exit);
    return;
  }
  using entered = await attach(program, entry);
  using left = await attach(object.program('on_return'), exit);
  expect((await linkShown(idOf(entered))).prog_id).toBe(program.id);
  expect((await linkShown(idOf(left))).prog_id).toBe(object.program('on_return').id);
  await run(['sh', '-c', `: >'${folder}/gone' && rm '${folder}/gone'`]);
  const seen = await counters(program);
  expect(seen[0]).toBeGreaterThan(0);
  expect(seen[1]).toBeGreaterThan(0);
});

test('uprobe and uretprobe: arguments and result of a function, by symbol and by offset', async () => {
  const adder = compileC(folder, 'probed', ADDER);
  const call = { kind: 'uprobe', binary: adder, symbol: 'add_up', offset: 0 } as const;
  const result = { kind: 'uretprobe', binary: adder, symbol: 'add_up', offset: 0 } as const;
  using object = await load('attach_uprobe', [
    { name: 'on_call', attach: call },
    { name: 'on_return', attach: result },
  ]);
  const program = object.program('on_call');
  if (!hasUprobes()) {
    await unsupported(program, call);
    return;
  }
  {
    using called = await attach(program, call);
    using returned = await attach(object.program('on_return'), result);
    expect((await linkShown(idOf(called))).prog_id).toBe(program.id);
    expect((await linkShown(idOf(returned))).prog_id).toBe(object.program('on_return').id);
    expect(await run([adder, '40', '2'])).toBe('42');
    expect(await counters(program)).toEqual({ 0: 1, 1: 1 });
    expect(await bss(program, 'attach_u.bss')).toEqual({ left: 40, right: 2, result: 42 });
  }
  await run([adder, '1', '1']);
  expect(await counters(program)).toEqual({ 0: 1, 1: 1 });
  // The same place by its offset in the file.
  const table = await run(['objdump', '-t', '-F', adder]);
  const address = Number.parseInt(/^([0-9a-f]+) .* add_up$/m.exec(table)?.[1] ?? '0', 16);
  using _byOffset = await attach(program, { kind: 'uprobe', binary: adder, offset: address });
  await run([adder, '1', '1']);
  expect(await counters(program)).toEqual({ 0: 2, 1: 1 });
});

test('a symbol or binary that is not there is said to be missing', async () => {
  const adder = compileC(folder, 'asked', ADDER);
  const point = { kind: 'uprobe', binary: adder, symbol: 'take_away', offset: 0 } as const;
  using object = await load('attach_uprobe', [{ name: 'on_call', attach: point }]);
  const program = object.program('on_call');
  await expect(attach(program, point)).rejects.toMatchObject({ code: 'bpf.no_such_target' });
  await expect(attach(program, { ...point, binary: join(folder, 'none') })).rejects.toMatchObject({
    code: 'bpf.no_such_target',
  });
});

test('fentry, fexit and lsm: where the kernel takes trampolines they run, elsewhere they are unsupported', async () => {
  const works = hasTrampolines() && securityModules().includes('bpf');
  for (const [kind, name, slot] of [
    ['fentry', 'on_entry', 0],
    ['fexit', 'on_exit', 1],
    ['lsm', 'on_open', 2],
  ] as const) {
    const point = { kind } as const;
    const loading = load('attach_trampoline', [{ name, attach: point }]);
    if (!works) {
      await expect(loading).rejects.toMatchObject({
        code: 'bpf.unsupported',
        program: name,
        details: { since: kind === 'lsm' ? '5.7' : '5.5' },
      });
      continue;
    }
    using object = await loading;
    using attachment = await attach(object.program(name), point);
    expect((await linkShown(idOf(attachment))).prog_id).toBe(object.program(name).id);
    await run(['sh', '-c', `: >'${folder}/gone' && rm '${folder}/gone'`]);
    expect((await counters(object.program(name)))[slot]).toBeGreaterThan(0);
  }
});

test('perf_event: samples on every cpu, one link for each', async () => {
  using pins = makePins();
  const point = { kind: 'perf_event', event: 'cpu_clock', frequency: 1000, cpu: -1, pid: -1 } as const;
  using object = await load('attach_perf_event', [{ name: 'sample', attach: point }]);
  const program = object.program('sample');
  const ids: number[] = [];
  {
    using attachment = await attach(program, point, { pinPath: pins.at('link') });
    expect(attachment.pinPaths).toEqual(cpus().map((_, cpu) => pins.at(`link-${cpu}`)));
    for (const link of attachment.links) {
      expect(link.info()).toMatchObject({ kind: 'perf_event', programId: program.id });
      ids.push(link.info().id);
      expect((await linkShown(link.info().id)).prog_id).toBe(program.id);
    }
    await until('samples', async () => ((await counters(program))[0] ?? 0) > 5);
    expect(await bss(program, 'attach_p.bss')).toMatchObject({ period: expect.any(Number) });
  }
  expect(pins.list()).toEqual(cpus().map((_, cpu) => `link-${cpu}`));
  pins[Symbol.dispose]();
  for (const id of ids) expect(await linkIsGone(id)).toBe(true);
});

test('perf_event: by period, on one process', async () => {
  const point = { kind: 'perf_event', event: 'task_clock', period: 1_000_000, cpu: -1, pid: process.pid } as const;
  using object = await load('attach_perf_event', [{ name: 'sample', attach: point }]);
  const program = object.program('sample');
  using _attachment = await attach(program, point);
  await until('samples of this process', async () => ((await counters(program))[0] ?? 0) > 2);
  expect(await bss(program, 'attach_p.bss')).toEqual({ period: 1_000_000 });
});

test('a BTF-typed tracepoint is attached as raw_tracepoint of type tracing', async () => {
  const point = { kind: 'raw_tracepoint', name: 'sched_process_exec' } as const;
  const wanted = unique('typed');
  const adder = compileC(folder, wanted, ADDER);
  using object = await load('btf_typed', [{ name: 'on_exec', type: 'tracing', attach: point }], {
    wanted,
  });
  const program = object.program('on_exec');
  expect(program.info().type).toBe('tracing');
  using attachment = await attach(program, point);
  expect(record(await bpftool(['link', 'show', 'id', `${idOf(attachment)}`]))).toMatchObject({
    type: 'raw_tracepoint',
    prog_id: program.id,
  });
  await run([adder, '1', '1']);
  expect(await counters(program)).toEqual({ 0: 1 });
});
