import { execFileSync } from 'node:child_process';
import { attach } from '@aegis/bpf-loader/attach';
import { hookState } from '@aegis/bpf-loader/kernel';
import { loadObject } from '@aegis/bpf-loader/object';
import { expect, test } from 'vitest';
import { makeNetns, type Netns } from '../../bpf-loader/test/netns.ts';
import type { EngineState } from '../src/artifacts/deployment.ts';
import { deployment, engineFixture, ip, objectBytes, startTraffic, trafficProgram } from './engine-fixture.ts';

/** What is particular to a kind of hook: order, handles, priorities, sockets, wishes that several interfaces fulfil. */

const at = (net: Netns) => ({ interface: 'wire', netns: net.near.path });
const ids = ({ attachments }: EngineState) => attachments.map(({ program_id: id }) => id);

test('tcx: by priority, by anchors, around programs of others, and in another order after an upgrade', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const hook = { kind: 'tcx', direction: 'ingress', ...at(net) } as const;
  const put = async (name: string, priority: number, more: { before?: string; after?: string } = {}, version = 1) => {
    const programs = [
      { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', priority, ...at(net), ...more } } as const,
    ];
    const [id = 0] = ids(await fixture.engine.apply(deployment({ name, version, programs })));
    return id;
  };
  using theirs = await loadObject(objectBytes('filter'), {
    programs: [{ name: 'tc_other', attach: hook }],
  });
  using foreign = await attach(theirs.program('tc_other'), hook);
  const other = foreign.links[0]?.info().programId ?? 0;
  const fifty = await put('fifty', 50);
  const ten = await put('ten', 10);
  const ninety = await put('ninety', 90);
  const anchored = await put('anchored', 90, { before: 'ten/tc_filter' });
  const after = await put('after', 1, { after: 'fifty/tc_filter' });
  const order = async () => (await hookState(hook)).programIds;
  expect(await order()).toEqual([other, anchored, ten, fifty, after, ninety]);
  // The same place: the link stays. Another place: a new link, never none.
  const tenAgain = await put('ten', 10, {}, 2);
  expect(await order()).toEqual([other, anchored, tenAgain, fifty, after, ninety]);
  const last = await put('fifty', 99, {}, 2);
  expect(await order()).toEqual([other, anchored, tenAgain, after, ninety, last]);
  // An engine that knows none of them reads the pins.
  const restarted = fixture.restart();
  const programs = [
    { name: 'tc_other', attach: { kind: 'tc', direction: 'ingress', priority: 11, ...at(net) } } as const,
  ];
  const [eleven = 0] = ids(await restarted.apply(deployment({ name: 'eleven', programs })));
  expect(await order()).toEqual([other, anchored, tenAgain, after, eleven, ninety, last]);
  for (const name of ['fifty', 'ten', 'ninety', 'anchored', 'after', 'eleven']) await fixture.engine.remove(name);
  expect(await order()).toEqual([other]);
});

const filters = (net: Netns): string[] =>
  execFileSync('tc', ['-n', net.near.name, 'filter', 'show', 'dev', 'wire', 'ingress'], { encoding: 'utf8' })
    .split('\n')
    .flatMap((line) => {
      const found = /pref (\d+) bpf .*handle (0x[0-9a-f]+) (\S+).* id (\d+)/.exec(line);
      return found ? [`${found[1]} ${found[3]?.split(':')[0]}`] : [];
    });
const qdiscs = (net: Netns): string =>
  execFileSync('tc', ['-n', net.near.name, 'qdisc', 'show', 'dev', 'wire'], { encoding: 'utf8' });

test('clsact: replaced by handle, moved to another priority, drift repaired, and the qdisc goes with the last', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const version = (number: number, priority = 20, name = 'filter') =>
    deployment({
      name,
      version: number,
      programs: [
        { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', priority, ...at(net) } },
      ],
    });
  const first = await fixture.engine.apply(version(1));
  expect(first.attachments[0]?.hook).toBe(`clsact ingress on wire in ${net.near.path}`);
  expect(filters(net)).toEqual(['20 tc_filter']);
  await fixture.engine.apply(version(1, 30, 'second'));
  await fixture.engine.apply(version(2));
  expect(filters(net)).toEqual(['20 tc_filter', '30 tc_filter']);
  await fixture.engine.apply(version(3, 40));
  expect(filters(net)).toEqual(['30 tc_filter', '40 tc_filter']);
  execFileSync('tc', ['-n', net.near.name, 'filter', 'delete', 'dev', 'wire', 'ingress', 'pref', '40']);
  const repaired = await fixture.engine.apply(version(3, 40));
  expect(repaired.drift.map(({ what }) => what)).toEqual(['link_missing']);
  expect(filters(net)).toEqual(['30 tc_filter', '40 tc_filter']);
  execFileSync('tc', ['-n', net.near.name, 'qdisc', 'delete', 'dev', 'wire', 'clsact']);
  await fixture.restart().apply(version(3, 40));
  await fixture.engine.apply(version(1, 30, 'second'));
  expect(filters(net)).toEqual(['30 tc_filter', '40 tc_filter']);
  await fixture.engine.remove('filter');
  expect(qdiscs(net)).toContain('clsact');
  await fixture.engine.remove('second');
  expect(qdiscs(net)).not.toContain('clsact');
  expect(fixture.bpffs.tree()).toEqual([]);
});

test('clsact: two nodes of one machine attach the same artifact to one interface, each its own filter', async () => {
  using net = makeNetns();
  using one = engineFixture();
  using two = engineFixture();
  const wish = deployment({
    programs: [{ name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', ...at(net) } }],
  });
  await one.engine.apply(wish);
  await two.engine.apply(wish);
  expect(filters(net)).toEqual(['50 tc_filter', '50 tc_filter']);
  await one.engine.remove('filter');
  expect(filters(net)).toEqual(['50 tc_filter']);
  expect((await two.engine.apply(wish)).drift).toEqual([]);
  await two.engine.remove('filter');
  expect(filters(net)).toEqual([]);
  // Made by the other node, and another's qdisc is never removed.
  expect(qdiscs(net)).toContain('clsact');
});

test('kinds that cannot be changed at once: the new is there before the old goes', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const { netns } = at(net);
  const version = (number: number) =>
    deployment({
      version: number,
      programs: [
        { name: 'nf_filter', attach: { kind: 'netfilter', family: 'ipv4', hook: 'input', priority: 5, netns } },
        { name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' } },
        { name: 'raw_any', attach: { kind: 'raw_tracepoint', name: 'sys_enter' } },
        { name: 'lookup_any', attach: { kind: 'sk_lookup', netns } },
        { name: 'socket_count', attach: { kind: 'socket_filter', ...at(net) } },
      ],
      maps: [{ name: 'own_counts', keep: true }],
    });
  const links = (state: EngineState) => state.attachments.map(({ link_id: id }) => id);
  const first = await fixture.engine.apply(version(1));
  expect(first.attachments.map(({ state }) => state)).toEqual(Array(5).fill('attached'));
  expect(links(first).at(-1)).toBeUndefined();
  let before = first;
  for (const number of [2, 3, 4]) {
    const state = await fixture.engine.apply(version(number));
    const same = links(state).map((id, index) => id === links(before)[index]);
    expect(same).toEqual([false, false, false, true, true]); // sk_lookup at once; a socket has no link
    expect(new Set([...ids(state), ...ids(before)]).size).toBe(10);
    before = state;
  }
  // Sockets are the process's own: they end with it and are made again by the next.
  const again = await fixture.restart().apply(version(4));
  expect(again.drift).toEqual([]);
  expect(ids(again)).toEqual(ids(before));
  using receiver = await startTraffic(net.near.inside([trafficProgram(), 'receive', '4001']));
  using sender = await startTraffic(net.far.inside([trafficProgram(), 'trickle', net.near.ipv4, '4001']));
  expect((await sender.counts()).length + (await receiver.counts()).length).toBe(2);
  expect(again.maps.map(({ name, entries }) => ({ name, counted: entries !== null }))).toContainEqual({
    name: 'own_counts',
    counted: true,
  });
});

test('globs and the default route: as many as there are, later ones too, and a route that goes takes nothing off', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const { netns } = at(net);
  const globbed = deployment({
    name: 'globbed',
    programs: [{ name: 'tc_filter', attach: { kind: 'tc', interface: 'w*', direction: 'ingress', netns } }],
  });
  const routed = deployment({
    name: 'routed',
    programs: [{ name: 'tc_other', attach: { kind: 'tc', interface: 'default-route', direction: 'egress', netns } }],
  });
  const where = (state: EngineState) =>
    state.attachments.map(({ interface: name, state: how }) => `${how} ${name ?? ''}`);
  const look = async (which: typeof globbed) => where(await fixture.engine.apply(which));
  expect(await look(globbed)).toEqual(['attached wire']);
  expect(await look(routed)).toEqual(['waiting ']);
  ip('-n', net.near.name, 'link', 'add', 'wg0', 'type', 'veth', 'peer', 'name', 'peer0');
  ip('-n', net.near.name, 'link', 'set', 'wg0', 'up');
  expect(await look(globbed)).toEqual(['attached wire', 'attached wg0']);
  ip('-n', net.near.name, 'route', 'add', 'default', 'dev', 'wg0');
  expect(await look(routed)).toEqual(['attached wg0']);
  ip('-n', net.near.name, 'route', 'delete', 'default');
  expect(await look(routed)).toEqual(['attached wg0']);
  ip('-n', net.near.name, 'route', 'add', 'default', 'dev', 'wire');
  const moved = await fixture.engine.apply(routed);
  expect(where(moved)).toEqual(['attached wire']);
  expect(moved.drift).toEqual([]);
  ip('-n', net.near.name, 'link', 'delete', 'wg0');
  expect(await look(globbed)).toEqual(['attached wire']);
});

test('an XDP hook that is held: its owner is named, ours or not', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const one = (name: string, program = 'xdp_filter') =>
    deployment({ name, programs: [{ name: program, attach: { kind: 'xdp', mode: 'generic', ...at(net) } }] });
  await fixture.engine.apply(one('first'));
  const id = ids(await fixture.engine.apply(one('first')))[0];
  await expect(fixture.engine.apply(one('second'))).rejects.toMatchObject({
    code: 'artifacts.hook_busy',
    message: `xdp on wire in ${net.near.path} holds one program, and program ${id} (xdp_filter) of artifact 'first' is there: unassign 'first' from this node first.`,
  });
  const tree = fixture.bpffs.tree();
  expect(tree.filter((path) => path.includes('/programs/'))).toHaveLength(1);
  await fixture.engine.remove('first');
  await fixture.engine.apply(one('second'));
  await fixture.engine.remove('second');
  using theirs = await loadObject(objectBytes('filter'), { programs: [{ name: 'xdp_filter' }] });
  using foreign = await attach(theirs.program('xdp_filter'), { kind: 'xdp', mode: 'generic', ...at(net) });
  await expect(fixture.engine.apply(one('second'))).rejects.toMatchObject({
    code: 'artifacts.hook_busy',
    message: `xdp on wire in ${net.near.path} holds one program, and program ${theirs.program('xdp_filter').id} (xdp_filter), which is not of Aegis, is there: detach it (bpftool net, ip link), then the daemon tries again.`,
  });
  expect(foreign.links[0]?.info().ifindex).toBe(net.near.ifindex);
  const both = deployment({
    programs: [
      { name: 'xdp_filter', attach: { kind: 'xdp', ...at(net) } },
      { name: 'xdp_renamed', attach: { kind: 'xdp', ...at(net) } },
    ],
  });
  await expect(fixture.engine.apply(both)).rejects.toMatchObject({ code: 'artifacts.hook_busy' });
});
