import { expect, test } from 'vitest';
import { makeNetns } from '../../bpf-loader/test/netns.ts';
import { deployment, engineFixture } from './engine-fixture.ts';

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
  const first = await fixture.engine.apply(version(1), null);
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
  expect(await fixture.engine.apply(version(1), null)).toEqual(first);
  expect((await fixture.restart().apply(version(1), null)).attachments).toEqual(first.attachments);

  const second = await fixture.engine.apply(version(2), version(1));
  const links = (state: typeof first) => state.attachments.map(({ link_id: id }) => id);
  expect(links(second)).toEqual(links(first));
  expect(second.attachments[0]?.program_id).not.toBe(first.attachments[0]?.program_id);
  expect(second.maps[0]?.map_id).toBe(first.maps[0]?.map_id);
  expect(second.maps[1]?.map_id).not.toBe(first.maps[1]?.map_id);

  await fixture.engine.remove('filter');
  expect(fixture.bpffs.tree()).toEqual([]);
});
