import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { artifactFolder, type SigningKey, trustedKey } from '../fleet/artifact-folder.ts';
import { type NamespaceFleet, startNamespaceFleet } from '../fleet/namespace-fleet.ts';
import { pings } from '../fleet/namespaces.ts';

/** The seed's story (000), end to end by the real CLI, server and daemon: an artifact that blocks ICMP to one address, by each of
 *  the three ways to do so. */

const BLOCKED = '192.0.2.9';
const OTHER = '192.0.2.2';

let fleet: NamespaceFleet;
let key: SigningKey;
let cgroup: { path: string; below: string };
beforeAll(async () => {
  fleet = await startNamespaceFleet();
  key = trustedKey(fleet);
  const mount = /^\S+ (\S+) cgroup2 /m.exec(readFileSync('/proc/mounts', 'utf8'))?.[1];
  if (!mount) throw new Error('no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup');
  const below = `/aegis-story-${process.pid}`;
  cgroup = { path: join(mount, below), below };
  mkdirSync(cgroup.path);
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  if (cgroup) rmdirSync(cgroup.path);
});

interface Way {
  kind: 'tc' | 'xdp' | 'cgroup_skb';
  attach(): Record<string, unknown>;
  /** How the pings are run. */
  wrap?: (argv: string[]) => string[];
  /** What bpftool shows of programs at this hook. */
  seen(): string[];
}
const inCgroup = (argv: string[]) => ['sh', '-c', `echo $$ >${cgroup.path}/cgroup.procs; exec "$@"`, 'sh', ...argv];
const onInterface = (flavours: readonly string[]): string[] => {
  const { stdout } = fleet.network.node.run(['bpftool', '--json', 'net']);
  const [all] = JSON.parse(stdout) as [Record<string, { devname?: string; name?: string; kind?: string }[]>];
  return flavours.flatMap((flavour) => (all[flavour] ?? []).map((one) => `${one.devname} ${one.name ?? ''}`.trim()));
};
const WAYS: Way[] = [
  {
    kind: 'tc',
    attach: () => ({ kind: 'tc', interface: 'uplink', direction: 'egress' }),
    // bpftool of Debian 12 knows clsact, not tcx: the link list knows both.
    seen: () => linksOf('tcx'),
  },
  { kind: 'xdp', attach: () => ({ kind: 'xdp', interface: 'uplink' }), seen: () => onInterface(['xdp']) },
  {
    kind: 'cgroup_skb',
    attach: () => ({ kind: 'cgroup_skb', cgroup: cgroup.below, direction: 'egress' }),
    wrap: inCgroup,
    seen: () => {
      const text = execFileSync('bpftool', ['--json', 'cgroup', 'show', cgroup.path], { encoding: 'utf8' });
      return (JSON.parse(text.trim() || '[]') as { name: string }[]).map(({ name }) => name);
    },
  },
];
/** Links of this node's own pins, whatever their type is called by this bpftool. */
const linksOf = (_type: string): string[] => {
  const text = execFileSync('bpftool', ['--json', '--bpffs', 'link', 'show'], { encoding: 'utf8' });
  const links = JSON.parse(text) as { prog_id: number; pinned?: string[] }[];
  return links
    .filter(({ pinned }) => pinned?.some((path) => path.includes(fleet.node.uid)))
    .map(({ prog_id }) => {
      const shown = execFileSync('bpftool', ['--json', 'prog', 'show', 'id', String(prog_id)], { encoding: 'utf8' });
      return (JSON.parse(shown) as { name: string }).name;
    });
};

const pinsOfOurs = (): string[] => {
  const folder = `/sys/fs/bpf/aegis/${fleet.node.uid}`;
  const found = spawnSync('find', [folder, '-type', 'f'], { encoding: 'utf8' });
  return found.stdout.split('\n').filter(Boolean);
};

test.each(WAYS)('block-icmp by $kind', ({ kind, attach, wrap, seen }) => {
  const name = `block-icmp-${kind.replace('_', '-')}`;
  const node = fleet.network.node;
  const artifact = artifactFolder(fleet, key, name, kind);
  artifact.edit((manifest) => {
    manifest.programs = [{ name: 'drop_icmp', attach: attach() }];
  });
  artifact.publish('1.0.0');
  expect(pings(node, BLOCKED, wrap)).toBe(true);

  fleet.aegis('assign', '--wait', '--set', `target_ip=${BLOCKED}`, name, 'web-1');
  expect(pings(node, BLOCKED, wrap)).toBe(false);
  expect(pings(node, OTHER, wrap)).toBe(true);
  expect(seen()).toHaveLength(1);

  const { items } = fleet.json<{ items: Record<string, unknown>[] }>('artifacts', 'status', name);
  expect(items.map(({ name: one, version, state }) => ({ one, version, state }))).toEqual([
    { one: name, version: '1.0.0', state: 'attached' },
  ]);
  const { entries } = fleet.json<{ entries: { value: { packets: number } }[] }>(
    'artifacts',
    'maps',
    name,
    '--node',
    'web-1',
    'dropped',
  );
  // Dropped on its way out, a packet makes ping's own sending fail, and it tries again; dropped on its way in, it is just gone.
  if (kind === 'xdp') expect(entries.map(({ value }) => value.packets)).toEqual([3]);
  else expect(entries[0]?.value.packets).toBeGreaterThanOrEqual(3);

  fleet.aegis('unassign', '--wait', name, 'web-1');
  expect(pings(node, BLOCKED, wrap)).toBe(true);
  expect(seen()).toEqual([]);
  expect(pinsOfOurs()).toEqual([]);
});

test('what the stock programs say of a bundle and its signature', () => {
  const artifact = artifactFolder(fleet, key, 'stock', 'tc');
  const bundle = artifact.publish('1.2.3');
  const run = (...argv: string[]) => {
    const [file = '', ...args] = argv;
    return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  };
  expect(run('tar', '--zstd', '-tf', bundle).split('\n')).toEqual(['manifest.json', 'stock.bpf.o', '']);
  run('zstd', '-q', '-t', bundle);
  expect(run('minisign', '-V', '-p', key.public, '-m', bundle)).toContain('Signature and comment signature verified');
  const { artifacts } = fleet.json<{ artifacts: { checksum: string }[] }>('artifacts', 'list');
  expect(artifacts.map(({ checksum }) => checksum)).toContain(run('sha256sum', bundle).split(' ')[0]);
  // And the other way round: signed by the stock program, taken by ours.
  const other = artifactFolder(fleet, key, 'stock-signed', 'tc');
  const packed = join(other.folder, 'stock-signed-1.0.0.tar.zst');
  fleet.aegis('artifacts', 'pack', other.folder, '-o', packed);
  const comment = `aegis-artifact-1 name=stock-signed version=1.0.0 time=${new Date().toISOString()}`;
  run('minisign', '-S', '-W', '-s', key.secret, '-m', packed, '-t', comment);
  fleet.aegis('artifacts', 'push', packed);
  expect(readdirSync(other.folder)).toContain('stock-signed-1.0.0.tar.zst.minisig');
});
