import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import { cpuValues } from '../src/maps.ts';
import { makeCgroup } from './cgroup.ts';
import { run, serve, socketProgram, until } from './commands.ts';
import { codecOf, contents, counted, globalsIn } from './contents.ts';
import { load } from './fixture.ts';
import { makeNetns, ping, pingInVain } from './netns.ts';
import { type FrameFields, frame, ICMP, TCP, UDP, XDP_ABORTED, XDP_DROP, XDP_PASS } from './packets.ts';
import { compileC } from './programs.ts';

/** Programs on maps of each common type: run, and what they left in the maps compared, decoded by BTF. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-maps-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('hash, percpu_hash, lru_hash, lru_percpu_hash: flows by structs', async () => {
  using object = await load('map_hashes', [{ name: 'account' }]);
  const program = object.program('account');
  const send = async (one: FrameFields, repeat: number) =>
    expect((await program.testRun({ data: frame(one), repeat })).returned).toBe(XDP_PASS);
  await send({ source: '192.0.2.1', target: '192.0.2.2' }, 3);
  await send({ source: '198.51.100.1', target: '192.0.2.2', protocol: UDP, length: 1400 }, 5);
  const ping = { source: '192.0.2.1', target: '192.0.2.2', protocol: ICMP, padding: '0x000000' };
  const bulk = { source: '198.51.100.1', target: '192.0.2.2', protocol: UDP, padding: '0x000000' };
  const expected = new Map<string, object>([
    [JSON.stringify(ping), { packets: 3, bytes: 3 * 98 }],
    [JSON.stringify(bulk), { packets: 5, bytes: 5 * 1400 }],
  ]);
  for (const name of ['by_hash', 'by_lru_hash']) {
    const found = new Map((await contents(object, name)).map(([key, value]) => [JSON.stringify(key), value]));
    expect(found, name).toEqual(
      new Map([
        [JSON.stringify(ping), { packets: 3, bytes: 294, first: 'FIRST_SMALL' }],
        [JSON.stringify(bulk), { packets: 5, bytes: 7000, first: 'FIRST_LARGE' }],
      ]),
    );
  }
  for (const name of ['by_cpu_hash', 'by_lru_cpu_hash']) {
    const sums = new Map<string, { packets: number; bytes: number }>();
    for (const [key, cpus] of await contents(object, name)) {
      const sum = { packets: 0, bytes: 0 };
      for (const one of cpus as { packets: number; bytes: number }[]) {
        sum.packets += one.packets;
        sum.bytes += one.bytes;
      }
      sums.set(JSON.stringify(key), sum);
    }
    expect(sums, name).toEqual(expected);
  }
});

test('array and percpu_array: a histogram', async () => {
  using object = await load('map_arrays', [{ name: 'histogram' }]);
  const program = object.program('histogram');
  const at = (length: number) => frame({ source: '192.0.2.1', target: '192.0.2.2', length });
  await program.testRun({ data: at(100), repeat: 4 });
  await program.testRun({ data: at(1000), repeat: 2 });
  const all = (await contents(object, 'lengths')).filter(([, value]) => value !== 0);
  expect(all).toEqual([
    [6, 4],
    [9, 2],
  ]);
  const map = object.map('lengths_by_cpu');
  const { entries } = await map.dump();
  expect(entries).toHaveLength(16);
  const sums = entries.map(({ value }) =>
    cpuValues(value, map.info()).reduce((sum, one) => sum + one.readUInt32LE(), 0),
  );
  expect([sums[6], sums[9], sums.reduce((sum, one) => sum + one, 0)]).toEqual([4, 2, 6]);
});

test('lpm_trie: rules given by value, the longest prefix decides', async () => {
  using object = await load('map_lpm_trie', [{ name: 'by_prefix' }]);
  const map = object.map('rules');
  const codec = codecOf(map);
  for (const [length, address, verdict] of [
    [24, '192.0.2.0', 'DENY'],
    [32, '192.0.2.7', 'ALLOW'],
    [16, '198.51.0.0', 'DENY'],
  ] as const)
    map.update(codec.keyBytes({ length, address }), codec.valueBytes(verdict));
  const ask = async (source: string) =>
    (await object.program('by_prefix').testRun({ data: frame({ source, target: '192.0.2.2' }) })).returned;
  expect(await ask('192.0.2.1')).toBe(XDP_DROP);
  expect(await ask('192.0.2.7')).toBe(XDP_PASS);
  expect(await ask('198.51.100.200')).toBe(XDP_DROP);
  expect(await ask('203.0.113.1')).toBe(XDP_PASS);
  expect(await counted(object)).toEqual({ 0: 2, 1: 1, 2: 1 });
  expect(new Map((await contents(object, 'rules')).map(([key, value]) => [JSON.stringify(key), value]))).toEqual(
    new Map([
      [JSON.stringify({ length: 24, address: '192.0.2.0' }), 'DENY'],
      [JSON.stringify({ length: 32, address: '192.0.2.7' }), 'ALLOW'],
      [JSON.stringify({ length: 16, address: '198.51.0.0' }), 'DENY'],
    ]),
  );
});

test('hash_of_maps and array_of_maps: packets sorted into inner maps', async () => {
  using object = await load('map_in_map', [{ name: 'sort' }]);
  const run = (protocol: number, repeat: number) =>
    object.program('sort').testRun({ data: frame({ source: '192.0.2.1', target: '192.0.2.2', protocol }), repeat });
  await run(ICMP, 3);
  await run(UDP, 2);
  await run(TCP, 1);
  const tallies = await Promise.all(['icmp_tally', 'udp_tally', 'every_tally'].map((name) => contents(object, name)));
  expect(tallies).toEqual([[[0, 3]], [[0, 2]], [[0, 6]]]);
  // Read from user space, an outer map shows the ids of its inner ones.
  const id = (name: string) => object.map(name).info().id;
  expect(await contents(object, 'by_place')).toEqual([
    [0, id('every_tally')],
    [1, id('udp_tally')],
  ]);
  expect(new Set((await contents(object, 'by_protocol')).map(([, value]) => value))).toEqual(
    new Set([id('icmp_tally')]),
  );
});

test('queue and stack: pushed by the program, popped from both ends', async () => {
  using object = await load('map_queue_stack', [{ name: 'push' }]);
  await object.program('push').testRun({ data: frame(), repeat: 6 });
  expect(globalsIn(object, '.bss')).toEqual({ packets: 6, from_queue: 1, from_stack: 4 });
  const drain = (name: string) => {
    const taken: number[] = [];
    for (let one = object.map(name).take(); one !== undefined; one = object.map(name).take())
      taken.push(one.readUInt32LE());
    return taken;
  };
  expect(drain('waiting')).toEqual([2, 3, 4, 5, 6]);
  expect(drain('piled')).toEqual([6, 5, 3, 2, 1]);
});

test('bloom_filter: knows whom it met, to the program and to user space', async () => {
  using object = await load('map_bloom_filter', [{ name: 'acquaint' }]);
  const meet = (source: string, repeat: number) =>
    object.program('acquaint').testRun({ data: frame({ source, target: '192.0.2.2' }), repeat });
  await meet('192.0.2.1', 3);
  await meet('198.51.100.1', 2);
  expect(await counted(object)).toEqual({ 0: 2, 1: 3 });
  const knows = (address: string) =>
    object.map('met').lookup(Uint8Array.from(address.split('.'), Number)) !== undefined;
  expect([knows('192.0.2.1'), knows('198.51.100.1'), knows('203.0.113.99')]).toEqual([true, true, false]);
});

test('prog_array: tail calls by protocol, and the end of a chain that calls itself', async () => {
  using object = await load('tail_calls', [
    { name: 'entry' },
    { name: 'on_icmp' },
    { name: 'on_udp' },
    { name: 'again' },
  ]);
  const run = async (protocol: number) =>
    (await object.program('entry').testRun({ data: frame({ source: '192.0.2.1', target: '192.0.2.2', protocol }) }))
      .returned;
  expect([await run(ICMP), await run(UDP), await run(TCP)]).toEqual([XDP_PASS, XDP_DROP, XDP_PASS]);
  // 33 tail calls at most (32 by the time that `again` runs for the first one): the last one falls through.
  expect(await counted(object)).toEqual({ 0: 3, 1: 1, 2: 1, 3: 33 });
  const ids = new Map(await contents(object, 'by_protocol'));
  expect(ids.get(UDP)).toBe(object.program('on_udp').id);
  expect(ids.get(255)).toBe(object.program('again').id);
  object.map('by_protocol').delete(Uint8Array.of(UDP, 0, 0, 0));
  object.map('by_protocol').delete(Uint8Array.of(255, 0, 0, 0));
  expect(await run(UDP)).toBe(XDP_ABORTED);
});

test('stack_trace: where a function of a user program was called from', async () => {
  const caller = compileC(
    folder,
    'caller',
    `#pragma GCC optimize ("no-omit-frame-pointer")
     __attribute__((noinline)) int inner(int n) { __asm__ volatile(""); return n + 1; }
     __attribute__((noinline)) int outer(int n) { return inner(n) * 2; }
     int main(void) { return outer(20) == 42 ? 0 : 1; }`,
  );
  const point = { kind: 'uprobe', binary: caller, symbol: 'inner', offset: 0 } as const;
  using object = await load('map_stack_trace', [{ name: 'from_where', attach: point }]);
  using _attachment = await attach(object.program('from_where'), point);
  await run([caller]);
  expect(await counted(object)).toEqual({ 0: 1 });
  const { entries } = await object.map('stacks').dump();
  expect(entries.map(({ key }) => key.readUInt32LE())).toEqual([
    (globalsIn(object, '.data') as { last_id: number }).last_id,
  ]);
  const frames = Array.from({ length: 16 }, (_, at) => entries[0]?.value.readBigUInt64LE(at * 8) ?? 0n).filter(
    (at) => at !== 0n,
  );
  expect(frames.length).toBeGreaterThanOrEqual(2);
  // The lowest frame is the probed function itself: its place in a page is that of the symbol in the file.
  const symbol = /^([0-9a-f]+) .* inner$/m.exec(await run(['objdump', '-t', caller]))?.[1] ?? '0';
  expect((frames[0] ?? 0n) & 0xfffn).toBe(BigInt(`0x${symbol}`) & 0xfffn);
});

test('cgroup_storage and percpu_cgroup_storage: what a cgroup sent', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const point = { kind: 'cgroup_skb', cgroup: cgroup.path, direction: 'egress' } as const;
  using object = await load('map_cgroup_storage', [{ name: 'account', attach: point }]);
  using _attachment = await attach(object.program('account'), point);
  expect(ping(net.near, net.far.ipv4, { count: 5, wrap: cgroup.inside })).toBe(5);
  const [[found, sent] = [null, null]] = await contents(object, 'of_cgroup');
  expect({ found, sent }).toEqual({
    found: expect.objectContaining({ cgroup_inode_id: Number(cgroup.id) }),
    sent: { packets: 5, bytes: 5 * 84 },
  });
  const [[, cpus] = [null, null]] = await contents(object, 'of_cgroup_by_cpu');
  const sum = (cpus as { packets: number; bytes: number }[]).reduce((all, { packets }) => all + packets, 0);
  expect(sum).toBe(5);
});

test('cgrp_storage: executions in one cgroup', async () => {
  await using cgroup = await makeCgroup();
  const point = { kind: 'raw_tracepoint', name: 'sched_process_exec' } as const;
  using object = await load('map_cgrp_storage', [{ name: 'on_exec', type: 'tracing', attach: point }], {
    watched_cgroup: Number(statSync(cgroup.path).ino),
  });
  using _attachment = await attach(object.program('on_exec'), point);
  await cgroup.run(['true']);
  await cgroup.run(['true']);
  await run(['true']);
  // Twice: the storage's value after each was 1 and 2, and the counter has their sum.
  expect(await counted(object)).toEqual({ 0: 3 });
});

test('sk_storage: packets of each socket', async () => {
  await using cgroup = await makeCgroup();
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'cgroup_skb', cgroup: cgroup.path, direction: 'egress' } as const;
  using object = await load('map_sk_storage', [{ name: 'account', attach: point }]);
  using _attachment = await attach(object.program('account'), point);
  expect(ping(near, far.ipv4, { count: 3, wrap: cgroup.inside, together: true })).toBe(3);
  await using _server = await serve(far.inside([socketProgram(), 'udp-serve', '4', '7100']));
  await near.run(cgroup.inside([socketProgram(), 'udp-ask', '4', far.ipv4, '7100']));
  expect(globalsIn(object, '.bss')).toEqual({ sockets: 2, highest: 3 });
});

test('task_storage: how often the tasks of one process were switched in', async () => {
  const point = { kind: 'raw_tracepoint', name: 'sched_switch' } as const;
  using object = await load('map_task_storage', [{ name: 'on_switch', type: 'tracing', attach: point }], {
    watched_tgid: process.pid,
  });
  using _attachment = await attach(object.program('on_switch'), point);
  // Each look waits for a timer, so this process leaves the CPU and comes back.
  await until('switches', () => (globalsIn(object, '.bss') as { highest: number }).highest > 3);
});

test('a spin lock in a value: a bucket of tokens for each source', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'tcx', interface: near.interface, direction: 'ingress', netns: near.path } as const;
  using object = await load('net_token_bucket', [{ name: 'limit', attach: point }], { burst: 4 });
  using _attachment = await attach(object.program('limit'), point);
  expect(ping(far, near.ipv4, { count: 4 })).toBe(4);
  expect(pingInVain(far, near.ipv4, { count: 2 })).toBe(0);
  expect(await counted(object)).toEqual({ 0: 4, 1: 2 });
  expect(await contents(object, 'buckets')).toEqual([[far.ipv4, { lock: { val: 0 }, used: 4 }]]);
});
