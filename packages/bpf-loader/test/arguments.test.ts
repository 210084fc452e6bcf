import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { attach } from '../src/attach.ts';
import type { AttachPoint } from '../src/types.ts';
import { load } from './fixture.ts';

/** What JavaScript may hand over that no type allows: refused by name, never taken for the kernel's default, and no way to crash. */

const near = { interface: 'lo', netns: '/run/netns/aegis-nothing' };
const odd: [string, object, string][] = [
  ['a kind that is not there', { kind: 'xpd', mode: 'auto', ...near }, "There is no kind of attachment 'xpd'."],
  [
    'a mode that is not there',
    { kind: 'xdp', mode: 'fast', ...near },
    'mode must be one of auto, generic, native, offload.',
  ],
  ['a name that is inherited', { kind: 'xdp', mode: 'toString', ...near }, 'mode must be one of'],
  ['no mode', { kind: 'xdp', ...near }, 'mode must be one of'],
  [
    'a hook that is not there',
    { kind: 'netfilter', family: 'ipv4', hook: 'inptu', priority: 1, netns: near.netns },
    'hook must be one of prerouting, input, forward, output, postrouting.',
  ],
  [
    'a family that is not there',
    { kind: 'netfilter', family: 'ip', hook: 'input', priority: 1, netns: near.netns },
    'family must be one of ipv4, ipv6.',
  ],
  [
    'a direction that is not there',
    { kind: 'tc', direction: 'in', priority: 1, handle: 1, ...near },
    'direction must be one of',
  ],
  ['an interface by number', { kind: 'xdp', mode: 'auto', ...near, interface: 1 }, 'An interface name has'],
  ['a namespace by number', { kind: 'xdp', mode: 'auto', interface: 'lo', netns: 1 }, 'must be an absolute path'],
];
test.each(odd)('%s', async (_, point, message) => {
  using object = await load('attach_xdp', [{ name: 'block_icmp' }]);
  await expect(attach(object.program('block_icmp'), point as AttachPoint)).rejects.toMatchObject({
    code: 'bpf.invalid',
    message: expect.stringContaining(message),
  });
});

test('no function of the addon falls over what it is given', () => {
  const calls = `
    const addon = require(process.argv[1]);
    const odd = [[], [null], [{}], [1, 2, 3], ['x', 'y', 'z'], [{}, {}, {}], [[], [], []], [Symbol('x')],
      [new Uint8Array(5), {}], ['/nothing', ['a', 5, null]]];
    (async () => {
      for (const [name, call] of Object.entries(addon))
        for (const args of odd) {
          if (name === 'mountBpffs') continue;
          // Whatever it is refused with: only that the process lives counts here.
          await Promise.resolve().then(() => call(...args)).catch(() => undefined);
        }
      console.log('whole');
    })();`;
  const addon = fileURLToPath(new URL('../build/Release/aegis_bpf.node', import.meta.url));
  expect(execFileSync(process.execPath, ['-e', calls, addon], { encoding: 'utf8' })).toBe('whole\n');
});
