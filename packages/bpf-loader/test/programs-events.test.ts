import { expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import { parseBtf } from '../src/btf.ts';
import { btfById } from '../src/kernel.ts';
import { readRecords } from '../src/ring-buffer.ts';
import { recordType, ringRecords } from '../src/ring-records.ts';
import { counted, globalsIn } from './contents.ts';
import { load } from './fixture.ts';
import { makeNetns, ping } from './netns.ts';
import { frame, UDP } from './packets.ts';

/** Records on their way from a program to user space. */

test('ringbuf: records of live traffic, decoded by the type that the source names', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'native', netns: near.path } as const;
  using object = await load('ring_events', [{ name: 'report', attach: point }]);
  using stream = readRecords(object.map('events'));
  using _attachment = await attach(object.program('report'), point);
  expect(ping(far, near.ipv4, { count: 3 })).toBe(3);
  // The map of a ring buffer carries no BTF: the program's does.
  const btf = parseBtf(btfById(object.program('report').info().btfId));
  const decodeOne = ringRecords(btf, recordType(btf, 'events'));
  const { records, lost } = stream.take();
  expect(lost).toBe(0);
  const event = {
    source: far.ipv4,
    target: near.ipv4,
    port: 0,
    protocol: 1,
    fragment: false,
    direction: 'INWARDS',
    mac: expect.stringMatching(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/),
    label: 'veth',
  };
  expect(records.map(decodeOne)).toEqual([0, 1, 2].map((number) => ({ number, ...event })));
  expect(stream.take()).toEqual({ records: [], lost: 0 });
});

test('ringbuf: a waiting reader is woken, and raw records are hex', async () => {
  using object = await load('ring_events', [{ name: 'report' }]);
  using stream = readRecords(object.map('raw'));
  const read = (async () => {
    const all: string[] = [];
    for await (const { records } of stream) {
      all.push(...records.map((one) => String(ringRecords(null, null)(one))));
      if (all.length >= 3) break;
    }
    return all;
  })();
  await object.program('report').testRun({ data: frame({ protocol: UDP, port: 53 }), repeat: 3 });
  expect(await read).toEqual(['0x00000000', '0x01000000', '0x02000000']);
});

test('ringbuf: what finds no room is counted by the program, and the rest is whole', async () => {
  using object = await load('ring_events', [{ name: 'report' }]);
  using stream = readRecords(object.map('events'), { maxRecords: 100_000 });
  await object.program('report').testRun({ data: frame({ protocol: UDP, port: 53 }), repeat: 3000 });
  const { packets, lost } = globalsIn(object, '.bss') as { packets: number; lost: number };
  expect(packets).toBe(3000);
  const { records } = stream.take();
  expect(records.length + lost).toBe(3000);
  expect(lost).toBeGreaterThan(0);
  const btf = parseBtf(btfById(object.program('report').info().btfId));
  const decodeOne = ringRecords(btf, recordType(btf, 'events'));
  const events = records.map(decodeOne) as { number: number; port: number }[];
  expect(events.map(({ number }) => number)).toEqual(events.map((_, index) => index));
  expect(new Set(events.map(({ port }) => port))).toEqual(new Set([53]));
});

test('perf_event_array: a record for each packet', async () => {
  using object = await load('map_perf_event_array', [{ name: 'emit' }]);
  {
    using stream = readRecords(object.map('samples'));
    await object.program('emit').testRun({ data: frame({ length: 98 }), repeat: 3 });
    await object.program('emit').testRun({ data: frame({ length: 700 }) });
    const { records, lost } = stream.take();
    expect(lost).toBe(0);
    expect(new Set(records.map((one) => one.readUInt32LE(0).toString(16)))).toEqual(new Set(['ae915000']));
    // In order only on one CPU, and runs may be on several.
    const lengths = records.map((one) => one.readUInt32LE(4));
    expect(lengths.sort((one, other) => one - other)).toEqual([98, 98, 98, 700]);
  }
  expect(await counted(object)).toEqual({ 0: 4 });
  // Without a reader there is no ring to write to.
  await object.program('emit').testRun({ data: frame() });
  expect(await counted(object)).toEqual({ 0: 4, 1: 1 });
});
