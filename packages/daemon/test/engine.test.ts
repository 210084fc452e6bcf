import { execFileSync } from 'node:child_process';
import { rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hookState } from '@aegis/bpf-loader/kernel';
import { expect, test } from 'vitest';
import { makeNetns } from '../../bpf-loader/test/netns.ts';
import { deployment, engineFixture, objectsFolder } from './engine-fixture.ts';

const PORT = { name: 'blocked_port', type: 'port', value: 4000 } as const;

test('a version is put in place, found in place, replaced at once, and taken off without a trace', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const at = { interface: 'wire', netns: net.near.path };
  const version = (number: number) =>
    deployment({
      version: number,
      programs: [
        { name: 'xdp_filter', attach: { kind: 'xdp', mode: 'generic', ...at } },
        { name: 'tc_filter', attach: { kind: 'tc', direction: 'egress', ...at } },
      ],
      constants: [PORT],
      maps: [{ name: 'kept_counts', keep: true }],
    });
  const first = await fixture.engine.apply(version(1));
  expect(first.waiting).toBe(false);
  expect(first.drift).toEqual([]);
  expect(first.attachments.map(({ program, hook, state }) => ({ program, hook, state }))).toEqual([
    { program: 'xdp_filter', hook: `xdp on wire in ${net.near.path}`, state: 'attached' },
    { program: 'tc_filter', hook: `tcx egress on wire in ${net.near.path}`, state: 'attached' },
  ]);
  expect(first.maps.map(({ name, type, max_entries: most, entries }) => ({ name, type, most, entries }))).toEqual([
    { name: 'kept_counts', type: 'hash', most: 4096, entries: 0 },
    { name: 'own_counts', type: 'hash', most: 64, entries: 0 },
  ]);
  const folder = statSync(join(fixture.bpffs.path, 'aegis', fixture.bpffs.nodeUid));
  expect([folder.mode & 0o777, folder.uid]).toEqual([0o700, process.geteuid?.()]);
  expect(await fixture.engine.apply(version(1))).toEqual(first);
  expect((await fixture.restart().apply(version(1))).attachments).toEqual(first.attachments);

  const second = await fixture.engine.apply(version(2));
  const links = (state: typeof first) => state.attachments.map(({ link_id: id }) => id);
  expect(links(second)).toEqual(links(first));
  expect(second.attachments[0]?.program_id).not.toBe(first.attachments[0]?.program_id);
  expect(second.maps[0]?.map_id).toBe(first.maps[0]?.map_id);
  expect(second.maps[1]?.map_id).not.toBe(first.maps[1]?.map_id);

  await fixture.engine.remove('filter');
  expect(fixture.bpffs.tree()).toEqual([]);
});

test("without a namespace in the manifest it is the daemon's own; a bpf file system is mounted where there is none", async () => {
  using net = makeNetns();
  const root = join(tmpdir(), `aegis-engine-mount-${process.pid}`);
  const script = fileURLToPath(new URL('engine-crash-child.ts', import.meta.url));
  const text = (interfaceName: string) => ({
    programs: [{ name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', interface: interfaceName } }],
  });
  const child = (deployments: unknown) => {
    const [file = '', ...args] = net.near.inside([
      process.execPath,
      script,
      'own-namespace',
      root,
      JSON.stringify(deployments),
    ]);
    execFileSync(file, args, { env: { ...process.env, ENGINE_TEST_OBJECTS: objectsFolder('filter') } });
  };
  const hook = { kind: 'tcx', direction: 'ingress', interface: 'wire', netns: net.near.path } as const;
  try {
    child([text('default-route')]);
    expect((await hookState(hook)).programIds).toHaveLength(0);
    child([text('wire')]);
    expect((await hookState(hook)).programIds).toHaveLength(1);
    child([text('wir?'), null]);
    expect((await hookState(hook)).programIds).toHaveLength(0);
  } finally {
    execFileSync('umount', [root]);
    rmSync(root, { recursive: true });
  }
});
