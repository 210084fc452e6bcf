import { expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import { serve, socketProgram } from './commands.ts';
import { counted } from './contents.ts';
import { load } from './fixture.ts';
import { makeNetns, ping, pingInVain } from './netns.ts';

/** Programs that answer and rewrite packets. */

test('XDP_TX: ping is answered before the kernel sees it', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const point = { kind: 'xdp', interface: near.interface, mode: 'native', netns: near.path } as const;
  // A veth sends by XDP_TX only where its other end can take frames of XDP.
  const passing = { kind: 'xdp', interface: far.interface, mode: 'native', netns: far.path } as const;
  using object = await load('net_echo', [{ name: 'echo', attach: point }]);
  using others = await load('many_programs', [{ name: 'at_xdp', attach: passing }]);
  // The near kernel answers nobody: what comes back is the program's.
  await near.run(['sh', '-c', 'echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all']);
  expect(pingInVain(far, near.ipv4)).toBe(0);
  {
    using _attachment = await attach(object.program('echo'), point);
    using _other = await attach(others.program('at_xdp'), passing);
    expect(ping(far, near.ipv4, { count: 3 })).toBe(3);
  }
  expect(await counted(object)).toEqual({ 0: 3 });
  expect(pingInVain(far, near.ipv4)).toBe(0);
});

test('rewriting with checksums: one address stands for another, there and back', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const place = { kind: 'tcx', interface: near.interface, netns: near.path } as const;
  const out = { ...place, direction: 'egress' } as const;
  const back = { ...place, direction: 'ingress' } as const;
  const front = '192.0.2.99';
  using object = await load(
    'net_rewrite',
    [
      { name: 'outwards', attach: out },
      { name: 'inwards', attach: back },
    ],
    { front_ip: front, back_ip: far.ipv4 },
  );
  // Nobody has the front address: its frames are led to the far end by hand.
  const [link] = JSON.parse(await far.run(['ip', '-j', 'link', 'show', far.interface])) as { address: string }[];
  await near.run(['ip', 'neighbour', 'replace', front, 'lladdr', link?.address ?? '', 'dev', near.interface]);
  await using _server = await serve(far.inside([socketProgram(), 'udp-serve', '4', '7100']));
  const ask = async () => (await near.run([socketProgram(), 'udp-ask', '4', front, '7100'])).trim();
  {
    using _out = await attach(object.program('outwards'), out);
    using _back = await attach(object.program('inwards'), back);
    expect(await ask()).toBe('ok from 7100');
    expect(ping(near, front, { count: 2 })).toBe(2);
  }
  expect(await counted(object)).toEqual({ 0: 3, 1: 3 });
  expect(pingInVain(near, front)).toBe(0);
});
