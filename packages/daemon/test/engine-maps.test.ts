import { readdirSync } from 'node:fs';
import { mapById } from '@aegis/bpf-loader/maps';
import { expect, test } from 'vitest';
import { makeNetns, ping } from '../../bpf-loader/test/netns.ts';
import { programBytes } from '../../bpf-loader/test/programs.ts';
import type { Deployment, EngineState } from '../src/artifacts/deployment.ts';
import { layout } from '../src/artifacts/kernel/layout.ts';
import { type DeploymentText, deployment, engineFixture, objectBytes } from './engine-fixture.ts';

/** Maps: kept over upgrades, shared between artifacts, filled when they are made. */

const trace = {
  name: 'trace_getpgid',
  attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' },
} as const;
const traced = (more: Partial<DeploymentText>) =>
  deployment({
    programs: [
      { name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' } },
    ],
    ...more,
  });
const mapId = (state: EngineState, name: string): number => state.maps.find((map) => map.name === name)?.map_id ?? 0;
const value = (id: number, key: number): bigint | null => {
  using map = mapById(id);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(key);
  return map.lookup(bytes)?.readBigUInt64LE() ?? null;
};
const put = (id: number, key: number, to: bigint): void => {
  using map = mapById(id);
  const [bytes, number] = [Buffer.alloc(4), Buffer.alloc(8)];
  bytes.writeUInt32LE(key);
  number.writeBigUInt64LE(to);
  map.update(bytes, number);
};

test('a kept map begins with its initial contents and never gets them again; of another shape it begins anew', async () => {
  using fixture = engineFixture();
  const version = (number: number, entries: number | undefined, keep = true) =>
    traced({
      version: number,
      maps: [
        {
          name: 'own_counts',
          keep,
          initial: [
            { key: 7, value: 70 },
            { key: 8, value: '80' },
          ],
          ...(entries === undefined ? {} : { max_entries: entries }),
        },
      ],
    });
  const first = mapId(await fixture.engine.apply(version(1, undefined)), 'own_counts');
  expect([value(first, 7), value(first, 8)]).toEqual([70n, 80n]);
  put(first, 7, 71n);
  put(first, 9, 90n);
  const second = mapId(await fixture.engine.apply(version(2, undefined)), 'own_counts');
  expect(second).toBe(first);
  expect([value(second, 7), value(second, 8), value(second, 9)]).toEqual([71n, 80n, 90n]);
  const third = mapId(await fixture.engine.apply(version(3, 128)), 'own_counts');
  expect(third).not.toBe(first);
  expect([value(third, 7), value(third, 9)]).toEqual([70n, null]);
  const fourth = mapId(await fixture.engine.apply(version(4, 128)), 'own_counts');
  expect(fourth).toBe(third);
  const fifth = mapId(await fixture.engine.apply(version(5, 128, false)), 'own_counts');
  expect(fifth).not.toBe(third);
  expect(fixture.bpffs.tree().filter((path) => path.includes('/kept/'))).toEqual([]);
});

test('a shared map is one for all, filled once, and goes with the last artifact that uses it', async () => {
  using fixture = engineFixture();
  const sharing = (name: string, version = 1) =>
    traced({ name, version, maps: [{ name: 'own_counts', share: 'common', initial: [{ key: 1, value: 1 }] }] });
  const shared = () => {
    const { shared: folder } = layout(fixture.bpffs.path, fixture.bpffs.nodeUid);
    return fixture.bpffs.tree().some((path) => path.endsWith('/shared')) ? readdirSync(folder).length : 0;
  };
  const one = mapId(await fixture.engine.apply(sharing('one')), 'own_counts');
  put(one, 1, 2n);
  expect(mapId(await fixture.engine.apply(sharing('two')), 'own_counts')).toBe(one);
  expect(mapId(await fixture.engine.apply(sharing('one', 2)), 'own_counts')).toBe(one);
  expect(value(one, 1)).toBe(2n);
  await expect(
    fixture.engine.apply(traced({ name: 'three', maps: [{ name: 'own_counts', share: 'common', max_entries: 5 }] })),
  ).rejects.toMatchObject({
    code: 'artifacts.load_failed',
    message: expect.stringContaining('is not of the shape that map own_counts wants (max_entries: wanted 5, found 64)'),
  });
  await fixture.engine.remove('one');
  expect(shared()).toBe(1);
  expect(await fixture.engine.sweep([])).toEqual(['two']);
  expect(fixture.bpffs.tree()).toEqual([]);
});

test('what does not go into a map is told by its entry, and nothing is left', async () => {
  using fixture = engineFixture();
  const wrong = traced({
    maps: [
      {
        name: 'own_counts',
        initial: [
          { key: 1, value: 1 },
          { key: 'x', value: 2 },
        ],
      },
    ],
  });
  await expect(fixture.engine.apply(wrong)).rejects.toMatchObject({
    code: 'artifacts.load_failed',
    message: expect.stringMatching(/^Entry 2 of the initial contents of map 'own_counts' does not go in: /),
  });
  const absent = traced({ maps: [{ name: 'absent', keep: true }] });
  await expect(fixture.engine.apply(absent)).rejects.toMatchObject({
    code: 'artifacts.load_failed',
    message: expect.stringContaining('no map absent'),
  });
  expect(fixture.bpffs.tree()).toEqual([]);
});

test('an artifact of several objects', async () => {
  using fixture = engineFixture();
  const both = deployment({ programs: [trace] });
  const objects = new Map([
    ['one.bpf.o', objectBytes('filter')],
    ['two.bpf.o', objectBytes('filter')],
  ]);
  const several: Deployment = {
    ...both,
    programs: [...objects.keys()].map((object) => ({ ...both.programs[0], ...trace, object })),
    constants: [{ name: 'version', type: 'u32', value: 3, object: 'two.bpf.o' }],
    maps: [{ name: 'kept_counts', object: 'one.bpf.o', keep: true }],
    bytes: async () => ({ objects }),
  };
  const state = await fixture.engine.apply(several);
  expect(state.attachments.map(({ program }) => program)).toEqual(['trace_getpgid', 'trace_getpgid']);
  expect(state.maps.map(({ name }) => name)).toEqual(['kept_counts', 'kept_counts', 'own_counts', 'own_counts']);
  expect((await fixture.engine.apply(several)).drift).toEqual([]);
  await fixture.engine.remove('filter');
  expect(fixture.bpffs.tree()).toEqual([]);
});

test('programs that others call through a program array are loaded with them, and stay callable', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const version = (number: number): Deployment => ({
    ...deployment({
      version: number,
      programs: [{ name: 'entry', attach: { kind: 'xdp', mode: 'generic', interface: 'wire', netns: net.near.path } }],
    }),
    constants: [],
    bytes: async () => ({ objects: new Map([['calls.bpf.o', programBytes('tail_calls')]]) }),
  });
  for (const number of [1, 2]) {
    const state = await fixture.engine.apply(version(number));
    expect(await ping(net.far, net.near.ipv4)).toBe(1);
    const counters = mapId(state, 'counters');
    expect([value(counters, 0), value(counters, 1)].map((count) => (count ?? 0n) > 0n)).toEqual([true, true]);
  }
});
