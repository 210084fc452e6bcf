import { expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import { counters, load } from './fixture.ts';
import { makeNetns, ping, pingInVain } from './netns.ts';

/** devmap, devmap_hash, cpumap and xskmap: packets redirected, and passed on when the map is empty at the place. */

const u32 = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);
const bytes = (value: Uint8Array): string[] => Array.from(value, String);

test.each([
  ['to_device', 'devices', u32(1)],
  ['to_device_by_key', 'devices_by_key', u32(77)],
] as const)('%s: packets go back out of a device', async (name, map, key) => {
  using net = makeNetns({ queues: 2 });
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'native', netns: near.path } as const;
  // A veth takes redirected frames while its other end has a program too.
  const passing = { kind: 'xdp', interface: far.interface, mode: 'native', netns: far.path } as const;
  using object = await load('map_redirects', [{ name, attach: point }]);
  using others = await load('many_programs', [{ name: 'at_xdp', attach: passing }]);
  using _attachment = await attach(object.program(name), point);
  using _other = await attach(others.program('at_xdp'), passing);
  expect(ping(far, near.ipv4, { count: 2 })).toBe(2);
  const before = await counters(object.program(name));
  expect(before[0]).toBeUndefined();
  expect(before[1]).toBeGreaterThanOrEqual(2);

  // From inside the namespace: an index is looked up in the one of who writes it.
  const value = name === 'to_device' ? u32(near.ifindex) : u32(near.ifindex, 0);
  const id = `${object.map(map).info().id}`;
  await near.run(['bpftool', 'map', 'update', 'id', id, 'key', ...bytes(key), 'value', ...bytes(value)]);
  const seen = (await counters(others.program('at_xdp')))[0] ?? 0;
  expect(pingInVain(far, near.ipv4, { count: 2 })).toBe(0);
  const after = await counters(object.program(name));
  expect(after[0]).toBeGreaterThanOrEqual(2);
  // What was sent came back to the sender's end.
  expect(((await counters(others.program('at_xdp')))[0] ?? 0) - seen).toBeGreaterThanOrEqual(2);
});

test('cpumap: packets are taken up again on another cpu', async () => {
  using net = makeNetns({ queues: 2 });
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'native', netns: near.path } as const;
  using object = await load('map_redirects', [{ name: 'to_cpu', attach: point }]);
  using _attachment = await attach(object.program('to_cpu'), point);
  expect(ping(far, near.ipv4)).toBe(1);
  expect((await counters(object.program('to_cpu')))[0]).toBeUndefined();
  // 192 frames may wait for cpu 0; no further program runs there.
  object.map('cpus').update(u32(0), u32(192, 0));
  expect(ping(far, near.ipv4, { count: 3 })).toBe(3);
  expect((await counters(object.program('to_cpu')))[0]).toBeGreaterThanOrEqual(3);
});

test('xskmap: without a socket there, packets pass', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'generic', netns: near.path } as const;
  using object = await load('map_redirects', [{ name: 'to_socket', attach: point }]);
  using _attachment = await attach(object.program('to_socket'), point);
  expect(ping(far, near.ipv4, { count: 3 })).toBe(3);
  const seen = await counters(object.program('to_socket'));
  expect(seen[0]).toBeUndefined();
  expect(seen[1]).toBeGreaterThanOrEqual(3);
});
