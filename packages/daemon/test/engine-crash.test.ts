import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hookState } from '@aegis/bpf-loader/kernel';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeNetns, type Netns } from '../../bpf-loader/test/netns.ts';
import { cgroupMount } from '../src/artifacts/kernel/resolve.ts';
import {
  type DeploymentText,
  deployment,
  type EngineFixture,
  engineFixture,
  objectsFolder,
  startTraffic,
  type TestCgroup,
  testCgroup,
  trafficProgram,
} from './engine-fixture.ts';

/** `kill -9` at every named point of a deployment. Afterwards one call makes the kernel equal to what is wished; meanwhile packets to
 *  the blocked port flow, and none may pass from the first success on. */

const BLOCKED = 4000;
const home = mkdtempSync(join(tmpdir(), 'aegis-engine-crash-'));
let net: Netns;
let group: TestCgroup;

const fromHere = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const native = fromHere('../../bpf-loader/build/Release');

beforeAll(async () => {
  // In one file: a hundred processes start from it.
  await build({
    entryPoints: [fromHere('engine-crash-child.ts')],
    outfile: join(home, 'child.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    logLevel: 'error',
    banner: {
      js: "import { createRequire as requirer } from 'node:module'; const require = requirer(import.meta.url);",
    },
  });
  net = makeNetns();
  group = testCgroup(cgroupMount() ?? '');
});
afterAll(() => {
  net[Symbol.dispose]();
  group[Symbol.dispose]();
  rmSync(home, { recursive: true, force: true });
});

/** Two versions: hooks that stay (replaced at once), one that overlaps, one that goes, one that comes. */
const version = (number: 1 | 2): DeploymentText => {
  const near = { interface: 'wire', netns: net.near.path };
  const cgroup = group.name;
  return {
    version: number,
    programs: [
      { name: number === 1 ? 'xdp_filter' : 'xdp_renamed', attach: { kind: 'xdp', mode: 'generic', ...near } },
      { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', ...near } },
      { name: 'tc_other', attach: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', priority: 7, ...near } },
      { name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' } },
      number === 1
        ? { name: 'raw_any', attach: { kind: 'raw_tracepoint', name: 'sys_enter' } }
        : { name: 'skb_filter', attach: { kind: 'cgroup_skb', direction: 'egress', cgroup } },
    ],
    constants: [{ name: 'blocked_port', type: 'port', value: BLOCKED }],
    maps: [{ name: 'kept_counts', keep: true }],
  };
};

const runChild = async (
  { bpffs }: EngineFixture,
  deployments: readonly (DeploymentText | null)[],
  env: NodeJS.ProcessEnv,
): Promise<string | null> => {
  const child = spawn(
    process.execPath,
    [join(home, 'child.mjs'), bpffs.nodeUid, bpffs.path, JSON.stringify(deployments)],
    {
      env: { ...process.env, ENGINE_TEST_OBJECTS: objectsFolder('filter'), AEGIS_NATIVE_DIR: native, ...env },
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  );
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  if (signal === null && code !== 0) throw new Error(`the engine's process ended with ${code}`);
  return signal;
};

const points = async (before: DeploymentText | null, after: DeploymentText | null): Promise<string[]> => {
  using fixture = engineFixture();
  if (before) await fixture.engine.apply(deployment(before));
  const trace = join(home, 'trace');
  rmSync(trace, { force: true });
  expect(await runChild(fixture, [after], { AEGIS_CRASH_TRACE: trace })).toBe(null);
  if (after) await fixture.engine.remove('filter');
  return existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : [];
};

/** How many programs stand at each hook. */
const standing = async () => {
  const near = { interface: 'wire', netns: net.near.path } as const;
  const tc = execFileSync('tc', ['-n', net.near.name, 'filter', 'show', 'dev', 'wire', 'ingress'], {
    encoding: 'utf8',
  });
  const count = async (point: Parameters<typeof hookState>[0]) => (await hookState(point)).programIds.length;
  return {
    xdp: await count({ kind: 'xdp', mode: 'generic', ...near }),
    tcx: await count({ kind: 'tcx', direction: 'ingress', ...near }),
    clsact: tc.match(/ id \d+ /g)?.length ?? 0,
    cgroup: await count({ kind: 'cgroup_skb', direction: 'egress', cgroup: group.path }),
  };
};
const reference = async (text: DeploymentText): Promise<{ tree: string[]; standing: unknown }> => {
  using fixture = engineFixture();
  await fixture.engine.apply(deployment(text));
  const found = { tree: fixture.bpffs.tree(), standing: await standing() };
  await fixture.engine.remove('filter');
  return found;
};
const treeOf = (tree: readonly string[], { bpffs }: EngineFixture): string[] =>
  tree.map((path) => path.replace(/^aegis\/[^/]+/, `aegis/${bpffs.nodeUid}`));

test('killed at any point of an upgrade: never unfiltered, and one call makes it whole', async () => {
  const names = await points(version(1), version(2));
  const kinds = new Set(names.map((name) => name.split('#')[0]));
  for (const step of [
    'load',
    'pin',
    'name',
    'attach',
    'record',
    'update',
    'settle',
    'rename',
    'replace',
    'detach',
    'keep',
    'forget',
  ])
    expect(kinds).toContain(`daemon.before-deploy.${step}`);
  const wanted = { 1: await reference(version(1)), 2: await reference(version(2)) };
  using fixture = engineFixture();
  await fixture.engine.apply(deployment(version(1)));
  using receiver = await startTraffic(net.near.inside([trafficProgram(), 'receive', `${BLOCKED}`]));
  using sender = await startTraffic(net.far.inside([trafficProgram(), 'trickle', net.near.ipv4, `${BLOCKED}`]));
  for (const [at, name] of names.entries()) {
    expect(await runChild(fixture, [version(2)], { AEGIS_CRASH_AT: name }), name).toBe('SIGKILL');
    // Forward to the new version, or back to the one before.
    const number = at % 2 === 0 ? 2 : 1;
    const state = await fixture.restart().apply(deployment(version(number)));
    expect({ at: name, attached: state.attachments.length }).toEqual({ at: name, attached: 5 });
    expect({ at: name, tree: fixture.bpffs.tree() }).toEqual({ at: name, tree: treeOf(wanted[number].tree, fixture) });
    expect({ at: name, standing: await standing() }).toEqual({ at: name, standing: wanted[number].standing });
    if (number === 2) await fixture.restart().apply(deployment(version(1)));
  }
  const [sent = 0] = await sender.counts();
  console.log(`${names.length} points of an upgrade, ${sent} packets sent to the blocked port`);
  expect(sent).toBeGreaterThan(0);
  expect(await receiver.counts()).toEqual([0]);
  await fixture.engine.remove('filter');
  expect(await standing()).toEqual({ xdp: 0, tcx: 0, clsact: 0, cgroup: 0 });
});

/** Of each point the first and the last time that it is passed. */
const ends = (names: readonly string[]): string[] => {
  const last = new Map(names.map((name) => [name.split('#')[0], name]));
  return names.filter((name) => name.endsWith('#1') || last.get(name.split('#')[0]) === name);
};

test('killed at any point of a first deployment', async () => {
  const wanted = await reference(version(1));
  for (const name of ends(await points(null, version(1)))) {
    using fixture = engineFixture();
    expect(await runChild(fixture, [version(1)], { AEGIS_CRASH_AT: name }), name).toBe('SIGKILL');
    await fixture.engine.apply(deployment(version(1)));
    expect({ at: name, tree: fixture.bpffs.tree() }).toEqual({ at: name, tree: treeOf(wanted.tree, fixture) });
    expect({ at: name, standing: await standing() }).toEqual({ at: name, standing: wanted.standing });
    await fixture.engine.remove('filter');
  }
});

test('killed at any point of taking off', async () => {
  for (const name of ends(await points(version(1), null))) {
    using fixture = engineFixture();
    await fixture.engine.apply(deployment(version(1)));
    expect(await runChild(fixture, [null], { AEGIS_CRASH_AT: name }), name).toBe('SIGKILL');
    await fixture.restart().remove('filter');
    expect({ at: name, tree: fixture.bpffs.tree() }).toEqual({ at: name, tree: [] });
    expect(await standing()).toEqual({ xdp: 0, tcx: 0, clsact: 0, cgroup: 0 });
  }
});
