import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { LoaderError } from '../src/errors.ts';
import { addon } from '../src/loader.ts';
import { type BpfMap, cpuValues, mapById, openMap } from '../src/maps.ts';
import { type LoadedObject, loadObject } from '../src/object.ts';
import { type RecordBatch, readRecords } from '../src/ring-buffer.ts';
import { bpftool } from './commands.ts';
import { list, record } from './fixture.ts';
import { frame, UDP } from './packets.ts';
import { makePins } from './pins.ts';
import { programBytes } from './programs.ts';

/** Maps as bytes: what is written is what is there, in whatever way the kernel keeps it; and the streams out of them. */

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const refusal = (call: () => unknown): Pick<LoaderError, 'code' | 'message'> => {
  try {
    call();
  } catch (error) {
    if (error instanceof LoaderError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error('was not refused');
};

/** A map of another size than the object gives it. */
const mapOf = async (object: string, name: string, maxEntries?: number): Promise<LoadedObject & { it: BpfMap }> => {
  const loaded = await loadObject(programBytes(object), {
    ...(maxEntries === undefined ? {} : { maps: [{ name, maxEntries }] }),
  });
  return { ...loaded, it: loaded.map(name) };
};

/** A key of map_hashes: 12 bytes. */
const flow = (number: number): Buffer => Buffer.concat([u32(number), Buffer.alloc(8)]);
const traffic = (packets: number): Buffer => Buffer.concat([u64(packets), Buffer.alloc(16)]);

test('what bpftool says of a map is what we say', async () => {
  using pins = makePins();
  using object = await mapOf('map_hashes', 'by_hash');
  object.it.pin(pins.at('hash'));
  using again = openMap(pins.at('hash'));
  const info = again.info();
  const seen = record(await bpftool(['map', 'show', 'id', `${info.id}`]));
  expect(info).toMatchObject({
    type: seen.type,
    name: seen.name,
    flags: seen.flags,
    keySize: seen.bytes_key,
    valueSize: seen.bytes_value,
    maxEntries: seen.max_entries,
    memlockBytes: seen.bytes_memlock,
    btfId: seen.btf_id,
    frozen: false,
    cpus: 0,
    elementBytes: 24,
  });
  using byId = mapById(info.id);
  expect(byId.info()).toEqual(info);
});

test('elements of a hash: written, read, taken, deleted', async () => {
  using object = await mapOf('map_hashes', 'by_hash');
  const map = object.it;
  expect(map.lookup(flow(1))).toBeUndefined();
  map.update(flow(1), traffic(5));
  expect(map.lookup(flow(1))).toEqual(traffic(5));
  expect(list(await bpftool(['map', 'dump', 'id', `${map.info().id}`]))).toHaveLength(1);
  expect(refusal(() => map.update(flow(1), traffic(6), 'create'))).toEqual({
    code: 'bpf.map_failed',
    message: 'The map has this key already.',
  });
  expect(refusal(() => map.update(flow(2), traffic(6), 'replace')).code).toBe('bpf.not_found');
  map.update(flow(1), traffic(7), 'replace');
  expect(map.take(flow(1))).toEqual(traffic(7));
  expect(map.delete(flow(1))).toBe(false);
  map.update(flow(1), traffic(8));
  expect(map.delete(flow(1))).toBe(true);
  expect(await map.dump()).toEqual({ entries: [], complete: true });
});

test('keys and values of another size are refused, and nothing is read past them', async () => {
  using object = await mapOf('map_hashes', 'by_hash');
  const map = object.it;
  expect(refusal(() => map.lookup(Buffer.alloc(11))).message).toBe(
    'The key of this map takes 12 bytes and was given 11.',
  );
  expect(refusal(() => map.lookup()).code).toBe('bpf.invalid');
  expect(refusal(() => map.update(flow(1), Buffer.alloc(25))).message).toBe(
    'The value of this map takes 24 bytes and was given 25.',
  );
  expect(refusal(() => map.delete(Buffer.alloc(0))).code).toBe('bpf.invalid');
  // @ts-expect-error a text is no key
  expect(refusal(() => map.lookup('text')).code).toBe('bpf.invalid');
});

test.each(['by_hash', 'by_lru_hash'])('%s: a dump gives all, or as many as asked', async (name) => {
  using object = await mapOf('map_hashes', name, 20_000);
  const map = object.it;
  const all = Array.from({ length: 5000 }, (_, at) => at);
  for (const at of all) map.update(flow(at), traffic(at * 3));
  const { entries, complete } = await map.dump();
  expect(complete).toBe(true);
  const found = entries.map(({ key, value }) => [key.readUInt32LE(0), Number(value.readBigUInt64LE(0))]);
  expect(found.sort(([one = 0], [other = 0]) => one - other)).toEqual(all.map((at) => [at, at * 3]));
  expect(await map.count()).toEqual({ count: 5000, complete: true });
  for (const limit of [1, 7, 1024, 4999]) {
    const part = await map.dump(limit);
    expect([part.entries.length, part.complete]).toEqual([limit, false]);
    expect(new Set(part.entries.map(({ key }) => key.readUInt32LE(0))).size).toBe(limit);
  }
  expect((await map.dump(5000)).entries).toHaveLength(5000);
  const tenOfThem = 10 * (12 + 24) + 35;
  expect(await map.dump(5000, tenOfThem)).toMatchObject({ entries: { length: 10 }, complete: false });
  // Counting keeps nothing: a map may be larger than the memory there is.
  const { count, keys, values } = await addon().mapDump(map.handle, 10_000, 0);
  expect([count, keys.length, values.length]).toEqual([5000, 0, 0]);
});

test('a full hash says so, an array has its slots from the beginning', async () => {
  using hash = await mapOf('map_hashes', 'by_hash', 2);
  hash.it.update(flow(1), traffic(1));
  hash.it.update(flow(2), traffic(1));
  expect(refusal(() => hash.it.update(flow(3), traffic(1))).message).toBe(
    'The map is full, or the key is past its end.',
  );
  using array = await mapOf('map_arrays', 'lengths');
  array.it.update(u32(3), u64(9));
  expect(refusal(() => array.it.update(u32(16), u64(1))).code).toBe('bpf.map_failed');
  expect(array.it.lookup(u32(16))).toBeUndefined();
  expect(refusal(() => array.it.delete(u32(3))).message).toBe('Elements of this type of map cannot be deleted.');
  const { entries } = await array.it.dump();
  expect(entries.map(({ key }) => key.readUInt32LE(0))).toEqual(Array.from({ length: 16 }, (_, at) => at));
  expect(entries[3]?.value).toEqual(u64(9));
});

test.each(['by_cpu_hash', 'by_lru_cpu_hash'])('%s: one value for each possible cpu', async (name) => {
  using object = await mapOf('map_hashes', name);
  const info = object.it.info();
  expect(info.cpus).toBeGreaterThan(0);
  expect(info.elementBytes).toBe(info.cpus * 24);
  const values = Array.from({ length: info.cpus }, (_, cpu) => traffic(cpu + 1));
  object.it.update(flow(1), Buffer.concat(values));
  const found = object.it.lookup(flow(1));
  if (!found) throw new Error('no value');
  expect(cpuValues(found, info)).toEqual(values);
  expect((await object.it.dump()).entries).toEqual([{ key: flow(1), value: found }]);
});

test('a per-cpu array of four bytes is padded to eight', async () => {
  using object = await mapOf('map_arrays', 'lengths_by_cpu');
  const info = object.it.info();
  expect([info.valueSize, info.elementBytes]).toEqual([4, 8 * info.cpus]);
  await object.program('histogram').testRun({ data: frame({ length: 100 }), repeat: 5 });
  const found = object.it.lookup(u32(6));
  if (!found) throw new Error('no value');
  expect(cpuValues(found, info).reduce((sum, value) => sum + value.readUInt32LE(0), 0)).toBe(5);
});

test('an LPM trie is listed', async () => {
  using object = await mapOf('map_lpm_trie', 'rules');
  const { keySize, elementBytes } = object.it.info();
  const prefixes = [8, 16, 24].map((bits) => {
    const key = Buffer.alloc(keySize);
    key.writeUInt32LE(bits);
    key.set([192, 0, 2, 0].slice(0, bits / 8), 4);
    return key;
  });
  for (const key of prefixes) object.it.update(key, Buffer.alloc(elementBytes, 1));
  const { entries, complete } = await object.it.dump();
  expect(complete).toBe(true);
  expect(entries.map(({ key }) => key).sort(Buffer.compare)).toEqual(prefixes.sort(Buffer.compare));
});

test('queues and stacks give their next; what has no elements says so', async () => {
  using object = await loadObject(programBytes('map_queue_stack'));
  const [queue, stack] = [object.map('waiting'), object.map('piled')];
  for (const number of [1, 2, 3]) {
    queue.update(Buffer.alloc(0), u32(number));
    stack.update(Buffer.alloc(0), u32(number));
  }
  expect([queue.lookup(), queue.take(), queue.take()]).toEqual([u32(1), u32(1), u32(2)]);
  expect([stack.take(), stack.take(), stack.take(), stack.take()]).toEqual([u32(3), u32(2), u32(1), undefined]);
  await expect(queue.dump()).rejects.toMatchObject({ code: 'bpf.unsupported' });
  using rings = await loadObject(programBytes('ring_events'));
  await expect(rings.map('events').dump()).rejects.toMatchObject({ code: 'bpf.unsupported' });
});

test('a frozen map takes nothing from us, but from its program', async () => {
  using object = await mapOf('map_arrays', 'lengths');
  object.it.freeze();
  expect(object.it.info().frozen).toBe(true);
  expect(refusal(() => object.it.update(u32(0), u64(1))).message).toContain('frozen');
  await object.program('histogram').testRun({ data: frame({ length: 100 }), repeat: 3 });
  expect(object.it.lookup(u32(6))).toEqual(u64(3));
  expect(object.map('lengths_by_cpu').info().frozen).toBe(false);
});

const udp = frame({ protocol: UDP, port: 53 });
const numbers = (batches: RecordBatch[]): number[] =>
  batches.flatMap(({ records }) => records.map((one) => one.readUInt32LE(0)));

test('a ring is read in batches of the size that was asked', async () => {
  using object = await loadObject(programBytes('ring_events'));
  using stream = readRecords(object.map('raw'), { maxRecords: 10 });
  await object.program('report').testRun({ data: udp, repeat: 35 });
  const batches = [stream.take(), stream.take(), stream.take(), stream.take(), stream.take()];
  expect(batches.map(({ records }) => records.length)).toEqual([10, 10, 10, 5, 0]);
  expect(numbers(batches)).toEqual(Array.from({ length: 35 }, (_, at) => at));
  using small = readRecords(object.map('raw'), { maxBytes: 6 });
  await object.program('report').testRun({ data: udp, repeat: 4 });
  expect(small.take().records).toHaveLength(2);
});

test('a waiting reader is stopped, and stopping twice is nothing', async () => {
  using object = await loadObject(programBytes('ring_events'));
  const stream = readRecords(object.map('raw'));
  const batches: RecordBatch[] = [];
  const read = (async () => {
    for await (const batch of stream) batches.push(batch);
  })();
  await object.program('report').testRun({ data: udp, repeat: 2 });
  await expect.poll(() => numbers(batches), { timeout: 20_000 }).toEqual([0, 1]);
  stream.stop();
  stream.stop();
  await read;
  expect(refusal(() => stream.take()).message).toBe('This reader is closed.');
});

test('a stream goes on for many waits, and ends with a break', async () => {
  using object = await loadObject(programBytes('ring_events'));
  const program = object.program('report');
  const got: number[] = [];
  await program.testRun({ data: udp });
  for await (const { records } of readRecords(object.map('raw'))) {
    got.push(...records.map((one) => one.readUInt32LE(0)));
    if (got.length >= 50) break;
    await program.testRun({ data: udp });
  }
  expect(got).toEqual(Array.from({ length: 50 }, (_, at) => at));
});

test('a perf event array is read too, and what it lost is counted', async () => {
  using object = await loadObject(programBytes('map_perf_event_array'));
  const program = object.program('emit');
  using stream = readRecords(object.map('samples'), { perfPages: 1, maxRecords: 100_000 });
  await program.testRun({ data: udp, repeat: 3 });
  const { records, lost } = stream.take();
  expect(lost).toBe(0);
  expect(records.map((one) => [one.readUInt32LE(0), one.readUInt32LE(4)])).toEqual(
    Array.from({ length: 3 }, () => [0xae915000, udp.length]),
  );
  // One page holds far less. The kernel tells of losses with the next record that finds room on the same cpu: one more is sent until
  // all are accounted for.
  let sent = 1000;
  await program.testRun({ data: udp, repeat: sent });
  const total = { read: 0, lost: 0 };
  const takeAll = (): void => {
    const batch = stream.take();
    total.read += batch.records.length;
    total.lost += batch.lost;
  };
  takeAll();
  expect(total.read).toBeLessThan(sent);
  const more = async (): Promise<number> => {
    await program.testRun({ data: udp });
    sent += 1;
    takeAll();
    return total.read + total.lost - sent;
  };
  await expect.poll(more, { timeout: 20_000, interval: 1 }).toBe(0);
  expect(total.lost).toBeGreaterThan(0);
});

test('only what streams is read, in sizes that can be', async () => {
  using object = await loadObject(programBytes('map_arrays'));
  expect(refusal(() => readRecords(object.map('lengths'))).message).toBe(
    'Map lengths is of type array: records are read from a ringbuf or perf_event_array.',
  );
  using rings = await loadObject(programBytes('ring_events'));
  expect(refusal(() => readRecords(rings.map('raw'), { perfPages: 3 })).code).toBe('bpf.invalid');
  expect(refusal(() => readRecords(rings.map('raw'), { maxRecords: 0 })).code).toBe('bpf.invalid');
});

test('a thread that ends while it reads takes its reader along', async () => {
  const source = (name: string): string => JSON.stringify(new URL(`../src/${name}.ts`, import.meta.url).href);
  const script = `
    import { parentPort, workerData } from 'node:worker_threads';
    const { loadObject } = await import(${source('object')});
    const { readRecords } = await import(${source('ring-buffer')});
    const object = await loadObject(workerData);
    parentPort.postMessage('reading');
    for await (const _ of readRecords(object.map('raw')));`;
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), {
      workerData: programBytes('ring_events'),
    });
    const failed = new Promise<never>((_, reject) => worker.once('error', reject));
    expect(await Promise.race([failed, new Promise((resolve) => worker.once('message', resolve))])).toBe('reading');
    expect(await worker.terminate()).toBe(1);
  }
});
