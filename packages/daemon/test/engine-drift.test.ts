import { execFileSync } from 'node:child_process';
import { readdirSync, renameSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { attach } from '@aegis/bpf-loader/attach';
import { openLink } from '@aegis/bpf-loader/link';
import { loadObject } from '@aegis/bpf-loader/object';
import { expect, test } from 'vitest';
import { makeNetns, type Netns } from '../../bpf-loader/test/netns.ts';
import type { EngineState } from '../src/artifacts/deployment.ts';
import { artifactKey, layout } from '../src/artifacts/kernel/layout.ts';
import { cgroupMount } from '../src/artifacts/kernel/resolve.ts';
import {
  bpftool,
  deployment,
  type EngineFixture,
  engineFixture,
  ip,
  objectBytes,
  testCgroup,
} from './engine-fixture.ts';

/** Somebody else changes what is attached: it is told, put right, and nothing of theirs is touched. */

const said = ({ drift, waiting, attachments }: EngineState) => ({
  drift: drift.map(({ what, repaired }) => `${what}${repaired ? '' : ' (not repaired)'}`),
  waiting,
  attached: attachments.filter(({ state }) => state === 'attached').length,
});
const well = (attached: number) => ({ drift: [], waiting: false, attached });

const wanted = (net: Netns, version = 1) =>
  deployment({
    version,
    programs: [
      { name: 'xdp_filter', attach: { kind: 'xdp', interface: 'wire', mode: 'generic', netns: net.near.path } },
      { name: 'tc_filter', attach: { kind: 'tc', interface: 'wire', direction: 'egress', netns: net.near.path } },
      { name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' } },
    ],
    maps: [{ name: 'kept_counts', keep: true }],
  });

const paths = ({ bpffs }: EngineFixture, name = 'filter') => {
  const all = layout(bpffs.path, bpffs.nodeUid);
  const artifact = all.artifact(artifactKey(name));
  return { ...artifact, revision: (revision: string) => all.revision(artifact, revision) };
};
/** Pins of the links, by the kernel's word for their kind. */
const linkPins = (fixture: EngineFixture): Record<string, string> => {
  const { links } = paths(fixture);
  return Object.fromEntries(
    readdirSync(links).map((name) => {
      using link = openLink(join(links, name));
      return [link.info().kind, join(links, name)];
    }),
  );
};

/** Each looked at by the engine that attached it and by one that has just started. */
test.each(['the engine that attached', 'an engine that starts'])(
  '%s finds and repairs each kind of drift',
  async (which) => {
    using net = makeNetns();
    using fixture = engineFixture();
    const first = wanted(net);
    const engine = () => (which === 'an engine that starts' ? fixture.restart() : fixture.engine);
    const look = async () => said(await engine().apply(first));
    expect(await look()).toEqual(well(3));
    expect(await look()).toEqual(well(3));

    for (const kind of ['xdp', 'tcx', 'tracepoint']) {
      unlinkSync(linkPins(fixture)[kind] ?? '');
      expect(await look()).toEqual({ ...well(3), drift: ['link_missing'] });
      expect(await look()).toEqual(well(3));
    }
    for (const kind of ['xdp', 'tcx']) {
      using link = openLink(linkPins(fixture)[kind] ?? '');
      link.detach();
      expect(await look()).toEqual({ ...well(3), drift: ['link_detached'] });
      expect(await look()).toEqual(well(3));
    }
    {
      using foreign = await loadObject(objectBytes('filter'), { programs: [{ name: 'xdp_filter' }] });
      using link = openLink(linkPins(fixture).xdp ?? '');
      link.update(foreign.program('xdp_filter'));
      expect(await look()).toEqual({ ...well(3), drift: ['program_replaced'] });
      expect(await look()).toEqual(well(3));
    }
    const { programs, maps } = paths(fixture).revision(first.revision);
    const before = await engine().apply(first);
    unlinkSync(join(programs, 'tc_filter'));
    expect(await look()).toEqual({ ...well(3), drift: ['program_missing'] });
    unlinkSync(join(maps, 'own_counts'));
    expect(await look()).toEqual({ ...well(3), drift: ['map_missing'] });
    unlinkSync(join(paths(fixture).kept, readdirSync(paths(fixture).kept)[0] ?? ''));
    await look();
    const after = await engine().apply(first);
    expect(said(after)).toEqual(well(3));
    expect(after.maps).toEqual(before.maps);
    expect(after.attachments.map(({ program_id: id }) => id)).toEqual(
      before.attachments.map(({ program_id: id }) => id),
    );
    expect(readdirSync(paths(fixture).kept)).toHaveLength(1);
  },
);

test('an interface that is made anew gets its programs again; while it is gone they wait', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const look = async () => said(await fixture.engine.apply(wanted(net)));
  expect(await look()).toEqual(well(3));
  ip('-n', net.near.name, 'link', 'delete', 'wire');
  expect(await look()).toEqual({
    drift: ['link_detached (not repaired)', 'link_detached (not repaired)'],
    waiting: true,
    attached: 1,
  });
  expect(await look()).toEqual({ drift: [], waiting: true, attached: 1 });
  ip('-n', net.near.name, 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', net.far.name);
  expect(await look()).toEqual(well(3));
  // Gone and back between two looks.
  ip('-n', net.near.name, 'link', 'delete', 'wire');
  ip('-n', net.near.name, 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', net.far.name);
  expect(await look()).toEqual({ ...well(3), drift: ['link_detached', 'link_detached'] });
  expect(await look()).toEqual(well(3));
});

test('a cgroup that is made anew, and a network namespace', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const root = cgroupMount() ?? '';
  const group = testCgroup(root);
  const grouped = deployment({
    programs: [
      { name: 'skb_filter', attach: { kind: 'cgroup_skb', cgroup: group.name, direction: 'ingress' } },
      { name: 'lookup_any', attach: { kind: 'sk_lookup', netns: net.near.path } },
      {
        name: 'nf_filter',
        attach: { kind: 'netfilter', family: 'ipv4', hook: 'input', priority: -10, netns: net.near.path },
      },
    ],
  });
  const look = async () => said(await fixture.engine.apply(grouped));
  expect(await look()).toEqual(well(3));
  expect(await look()).toEqual(well(3));
  rmdirSync(group.path);
  expect(await look()).toEqual({ drift: ['link_detached (not repaired)'], waiting: true, attached: 2 });
  using again = testCgroup(root, group.name);
  expect(await look()).toEqual(well(3));
  rmdirSync(again.path);
  using third = testCgroup(root, group.name);
  expect(await look()).toEqual({ ...well(3), drift: ['link_detached'] });
  ip('netns', 'delete', net.near.name);
  expect((await look()).waiting).toBe(true);
  ip('netns', 'add', net.near.name);
  expect((await look()).attached).toBe(3);
  expect(await look()).toEqual(well(3));
  await fixture.engine.remove('filter');
  expect(third.path).toContain(group.name);
});

test('programs of others stay where they are', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  using theirs = await loadObject(objectBytes('filter'), {
    programs: [
      { name: 'tc_other', attach: { kind: 'tcx', interface: 'any', direction: 'egress' } },
      { name: 'xdp_filter' },
    ],
  });
  const tcx = { kind: 'tcx', interface: 'wire', direction: 'egress', netns: net.near.path } as const;
  using before = await attach(theirs.program('tc_other'), tcx);
  const pin = join(fixture.bpffs.path, 'theirs');
  theirs.program('tc_other').pin(pin);
  await fixture.engine.apply(wanted(net));
  await fixture.engine.apply(wanted(net, 2));
  const chain = () =>
    (bpftool('net', 'list', 'dev', 'lo') as unknown[]).length >= 0 &&
    JSON.parse(
      execFileSync('nsenter', [`--net=${net.near.path}`, '--', 'bpftool', '--json', 'link', 'list'], {
        encoding: 'utf8',
      }),
    );
  expect(JSON.stringify(chain())).toContain(`"prog_id":${theirs.program('tc_other').id}`);
  expect(await fixture.engine.sweep([])).toEqual(['filter']);
  expect(before.links[0]?.info().ifindex).toBe(net.near.ifindex);
  expect(fixture.bpffs.tree()).toEqual(['theirs']);

  // Also one that stands in a link that was ours: our pin goes, the program stays loaded.
  await fixture.engine.apply(wanted(net));
  using link = openLink(linkPins(fixture).xdp ?? '');
  link.update(theirs.program('xdp_filter'));
  await fixture.engine.remove('filter');
  expect(link.info().programId).toBe(theirs.program('xdp_filter').id);
  expect(fixture.bpffs.tree()).toEqual(['theirs']);
});

test('a reboot: the pins are gone, everything is attached again', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const look = async () => said(await fixture.engine.apply(wanted(net)));
  expect(await look()).toEqual(well(3));
  fixture.bpffs.forget();
  // To an engine that saw them there it is drift, to one that starts it is not.
  expect(await look()).toEqual({ ...well(3), drift: ['link_missing'] });
  expect(await look()).toEqual(well(3));
  fixture.bpffs.forget();
  expect(said(await fixture.restart().apply(wanted(net)))).toEqual(well(3));
});

test('pins that are gone while a clsact filter runs on: it is ours, and the rest is attached again', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const programs = [
    { name: 'xdp_filter', attach: { kind: 'xdp', interface: 'wire', mode: 'generic', netns: net.near.path } },
    {
      name: 'tc_filter',
      attach: { kind: 'tc', interface: 'wire', direction: 'egress', mechanism: 'clsact', netns: net.near.path },
    },
  ] as const;
  const filters = () =>
    execFileSync('tc', ['-n', net.near.name, 'filter', 'show', 'dev', 'wire', 'egress'], { encoding: 'utf8' });
  const first = await fixture.engine.apply(deployment({ programs }));
  const loaded = (state: EngineState) => state.attachments.map(({ program_id: id }) => id);
  fixture.bpffs.forget();
  expect(filters()).toContain(`id ${loaded(first)[1]} `);
  const again = await fixture.restart().apply(deployment({ programs }));
  expect(said(again)).toEqual(well(2));
  expect(filters().match(/ id \d+ /g)).toEqual([` id ${loaded(again)[1]} `]);
  // A deployment that fails leaves it as it was.
  fixture.bpffs.forget();
  using theirs = await loadObject(objectBytes('filter'), { programs: [{ name: 'xdp_filter' }] });
  using _busy = await attach(theirs.program('xdp_filter'), {
    kind: 'xdp',
    mode: 'generic',
    interface: 'wire',
    netns: net.near.path,
  });
  const [xdp, tc] = programs;
  const failing = fixture.restart().apply(deployment({ programs: [tc, xdp] }));
  await expect(failing).rejects.toMatchObject({ code: 'artifacts.hook_busy' });
  expect(filters().match(/ id \d+ /g)).toEqual([` id ${loaded(again)[1]} `]);
});

test('half-made things of a crash are cleared away, whatever they are', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const first = wanted(net);
  await fixture.engine.apply(first);
  const { revisions, records } = paths(fixture);
  const tree = fixture.bpffs.tree();
  await fixture.engine.apply(wanted(net, 2));
  renameSync(join(revisions, wanted(net, 2).revision), join(revisions, `${first.revision}-new`));
  execFileSync('ln', ['-s', 'half', join(records, 'x-w')]);
  expect(said(await fixture.restart().apply(first))).toEqual(well(3));
  expect(fixture.bpffs.tree()).toEqual(tree);
});
