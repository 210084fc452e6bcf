import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { until } from './commands.ts';
import { makeNetns, ping } from './netns.ts';
import { programPath } from './programs.ts';

test('the example of the README does what it says', async () => {
  using net = makeNetns();
  const { near, far } = net;
  const script = fileURLToPath(new URL('../examples/block-icmp.ts', import.meta.url));
  const argv = near.inside([process.execPath, script, near.interface, near.ipv4, programPath('attach_xdp')]);
  const [command = '', ...args] = argv;
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  await until('the attachment', () => text.includes('attached:') || child.exitCode !== null);
  expect(await ping(far, near.ipv4, { count: 3 })).toBe(0);
  expect(await ping(far, near.other)).toBe(1);
  child.stdin.end('\n');
  expect(await ended).toEqual([0, null]);
  expect(text).toBe(
    [
      'programs: block_icmp, globals: target_ip',
      `attached: xdp on interface ${near.ifindex}, pinned at /sys/fs/bpf/block-icmp/link`,
      'dropped: 3',
      'replaced',
      'detached',
      '',
    ].join('\n'),
  );
  expect(await ping(far, near.ipv4)).toBe(1);
});
