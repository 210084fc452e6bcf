import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { makeNetns } from '../../bpf-loader/test/netns.ts';
import type { EngineState } from '../src/artifacts/deployment.ts';
import { deployment, engineFixture, ip } from './engine-fixture.ts';

/** An interface that gets another name while a wish that is no plain name (a glob, the default route) still means it. */

const shown = ({ attachments, drift }: EngineState) => ({
  attachments: attachments.map(({ interface: name, state, link_id: id }) => ({ name, state, id })),
  drift,
});

test.each(['xdp', 'tcx', 'clsact', 'socket_filter'] as const)(
  '%s: stays on an interface that is renamed',
  async (how) => {
    using net = makeNetns();
    using fixture = engineFixture();
    const netns = net.near.path;
    const attachTo = (wish: string) => {
      if (how === 'xdp')
        return { name: 'xdp_filter', attach: { kind: 'xdp', mode: 'generic', interface: wish, netns } } as const;
      if (how === 'socket_filter')
        return { name: 'socket_count', attach: { kind: 'socket_filter', interface: wish, netns } } as const;
      return {
        name: 'tc_filter',
        attach: { kind: 'tc', direction: 'ingress', mechanism: how, interface: wish, netns },
      } as const;
    };
    const version = (number: number) => deployment({ version: number, programs: [attachTo('w*')] });
    const rename = (from: string, to: string) => {
      ip('-n', net.near.name, 'link', 'set', from, 'down');
      ip('-n', net.near.name, 'link', 'set', from, 'name', to);
      ip('-n', net.near.name, 'link', 'set', to, 'up');
    };
    const first = shown(await fixture.engine.apply(version(1)));
    expect(first.attachments).toMatchObject([{ name: 'wire', state: 'attached' }]);
    rename('wire', 'wan0');
    const renamed = shown(await fixture.engine.apply(version(1)));
    expect(renamed.attachments).toMatchObject([{ name: 'wan0', state: 'attached' }]);
    if (how === 'xdp' || how === 'tcx') expect(renamed.attachments[0]?.id).toBe(first.attachments[0]?.id);
    expect(renamed.drift).toEqual([]);
    rename('wan0', 'wan1');
    const later = shown(await fixture.restart().apply(version(2)));
    expect(later.attachments).toMatchObject([{ name: 'wan1', state: 'attached' }]);
    if (how === 'clsact') {
      const text = execFileSync('tc', ['-n', net.near.name, 'filter', 'show', 'dev', 'wan1', 'ingress'], {
        encoding: 'utf8',
      });
      expect(text.match(/handle 0x/g)).toHaveLength(1);
    }
    rename('wan1', 'eth0');
    const gone = shown(await fixture.engine.apply(version(2)));
    expect(gone.attachments).toMatchObject([{ state: 'waiting' }]);
    await fixture.engine.remove('filter');
    expect(fixture.bpffs.tree()).toEqual([]);
    if (how !== 'socket_filter')
      expect(
        execFileSync('ip', ['-n', net.near.name, '-d', 'link', 'show', 'eth0'], { encoding: 'utf8' }),
      ).not.toContain('prog/xdp');
    expect(
      execFileSync('tc', ['-n', net.near.name, 'qdisc', 'show', 'dev', 'eth0'], { encoding: 'utf8' }),
    ).not.toContain('clsact');
  },
);

test('two interfaces that swap their names keep what is attached to each', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const at = (...args: string[]) => ip('-n', net.near.name, ...args);
  at('link', 'add', 'wan', 'type', 'veth', 'peer', 'name', 'peer0');
  at('link', 'set', 'wan', 'up');
  const wish = { interface: 'w*', netns: net.near.path };
  const both = deployment({
    programs: [
      { name: 'xdp_filter', attach: { kind: 'xdp', mode: 'generic', ...wish } },
      { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', ...wish } },
    ],
  });
  const links = ({ attachments }: EngineState) =>
    attachments.map(({ program, interface: name, link_id: id }) => `${program} ${name} ${id}`).sort();
  const first = links(await fixture.engine.apply(both));
  expect(first).toHaveLength(4);
  for (const [from, to] of [
    ['wire', 'third'],
    ['wan', 'wire'],
    ['third', 'wan'],
  ] as const) {
    at('link', 'set', from, 'down');
    at('link', 'set', from, 'name', to);
    at('link', 'set', to, 'up');
  }
  const swapped = await fixture.engine.apply(both);
  const other = (line: string) => line.replace(/wire|wan/, (name) => (name === 'wire' ? 'wan' : 'wire'));
  expect(links(swapped)).toEqual(first.map(other).sort());
  expect(swapped.drift).toEqual([]);
  expect((await fixture.restart().apply(both)).drift).toEqual([]);
  await fixture.engine.remove('filter');
  expect(fixture.bpffs.tree()).toEqual([]);
  expect(execFileSync('tc', ['-n', net.near.name, 'qdisc', 'show'], { encoding: 'utf8' })).not.toContain('clsact');
});
