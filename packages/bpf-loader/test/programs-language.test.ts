import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type Attachment, attach } from '../src/attach.ts';
import { parseBtf } from '../src/btf.ts';
import type { AttachPoint } from '../src/types.ts';
import { makeCgroup } from './cgroup.ts';
import { run, until } from './commands.ts';
import { contents, counted, globalsIn, valueAt } from './contents.ts';
import { load } from './fixture.ts';
import { makeNetns, ping } from './netns.ts';
import { frame, XDP_PASS } from './packets.ts';
import { compileC } from './programs.ts';

/** What the language gives a program: globals, BTF-typed arguments, CO-RE, several programs in one object, loops, timers. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-language-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('globals keep their initial values, or take those that were given, and are read back', async () => {
  using plain = await load('globals', [{ name: 'copy' }]);
  expect((await plain.program('copy').testRun({ data: frame() })).returned).toBe(XDP_PASS);
  expect(globalsIn(plain, '.bss')).toEqual({
    seen: {
      small: 1,
      wide: -5,
      enabled: false,
      mode: 'MODE_ON',
      label: 'unset',
      limits: { low: 1, high: 2, nested: { bias: 0, strict: false } },
      address: '0.0.0.0',
      address6: '::',
      sum: 10,
      placed: 7,
    },
  });
  expect(globalsIn(plain, '.data')).toEqual({ calls: 101 });

  const given = {
    small: 255,
    wide: '-9223372036854775808',
    enabled: true,
    mode: 'MODE_AUTO',
    label: 'sixteen bytes ok',
    limits: { low: 100, high: 65535, nested: { bias: -128, strict: true } },
    address: '192.0.2.9',
    table: [10, 20, 30, 40],
    placed: -7,
  };
  using object = await load('globals', [{ name: 'copy' }], { ...given, address6: { bytes: '2001:db8::9' } });
  await object.program('copy').testRun({ data: frame() });
  const { table: _, ...same } = given;
  expect(globalsIn(object, '.bss')).toEqual({ seen: { ...same, address6: '2001:db8::9', sum: 100 } });
  expect(globalsIn(object, '.rodata')).toMatchObject({
    small: 255,
    label: 'sixteen bytes ok',
    table: [10, 20, 30, 40],
  });
  // What a program takes as constant nobody changes afterwards.
  expect(object.map('.rodata').info().frozen).toBe(true);
});

test('a BTF-typed tracepoint reads kernel structures by CO-RE', async () => {
  const wanted = `core-${randomBytes(3).toString('hex')}`;
  const program = compileC(folder, wanted, 'int main(void) { return 0; }');
  const point = { kind: 'raw_tracepoint', name: 'sched_process_exec' } as const;
  using object = await load('btf_typed', [{ name: 'on_exec', type: 'tracing', attach: point }], {
    wanted,
  });
  using _attachment = await attach(object.program('on_exec'), point);
  // The shell says its number, then becomes the program.
  const pid = Number(await run(['sh', '-c', 'echo $$; exec "$0"', program]));
  expect(await counted(object)).toEqual({ 0: 1 });
  const kernel = parseBtf(readFileSync('/sys/kernel/btf/vmlinux'));
  const size = kernel.sizeOf(kernel.typeByName('struct task_struct') ?? 0);
  expect(globalsIn(object, '.bss')).toEqual({
    last: {
      pid,
      parent: process.pid,
      comm: wanted,
      pages: expect.any(Number),
      odd_field: false,
      task_size: size,
    },
  });
});

test('several programs in one object, of several types, on one map', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const { near, far } = net;
  const place = { interface: near.interface, netns: near.path };
  const points: [name: string, point: AttachPoint][] = [
    ['at_xdp', { kind: 'xdp', mode: 'native', ...place }],
    ['at_tc', { kind: 'tcx', direction: 'egress', ...place }],
    ['at_cgroup', { kind: 'cgroup_skb', cgroup: cgroup.path, direction: 'egress' }],
    ['at_socket', { kind: 'socket_filter', ...place }],
    ['at_exec', { kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' }],
  ];
  using object = await load(
    'many_programs',
    points.map(([name, point]) => ({ name, attach: point })),
  );
  expect([...object.programs].map(([name, { type }]) => [name, type]).sort()).toEqual([
    ['at_cgroup', 'cgroup_skb'],
    ['at_exec', 'tracepoint'],
    ['at_socket', 'socket_filter'],
    ['at_tc', 'sched_cls'],
    ['at_xdp', 'xdp'],
  ]);
  const maps = new Set([...object.programs.values()].flatMap((program) => program.info().mapIds));
  expect(maps.size).toBe(1);
  using stack = new DisposableStack();
  for (const [name, point] of points) stack.use<Attachment>(await attach(object.program(name), point));
  expect(ping(near, far.ipv4, { count: 2, wrap: cgroup.inside })).toBe(2);
  const seen = await counted(object);
  expect(seen[2]).toBe(2);
  for (const slot of [0, 1, 3, 4]) expect(Number(seen[slot])).toBeGreaterThanOrEqual(2);
});

test('only the programs that are asked for are loaded', async () => {
  using object = await load('many_programs', [{ name: 'at_xdp' }]);
  expect([...object.programs.keys()]).toEqual(['at_xdp']);
});

test('loops, callbacks over a map, a timer and a global function', async () => {
  using object = await load('loops_and_timers', [{ name: 'work' }]);
  expect((await object.program('work').testRun({ data: frame() })).returned).toBe(XDP_PASS);
  expect(globalsIn(object, '.bss')).toEqual({ looped: 5, summed: 0 + 1 + 4 + 9 + 16 });
  expect(new Map(await contents(object, 'squares'))).toEqual(new Map([0, 1, 2, 3, 4].map((one) => [one, one * one])));
  await until('the timer', () => (valueAt(object, 'timers', 0) as { ticks: number }).ticks === 1);
});
