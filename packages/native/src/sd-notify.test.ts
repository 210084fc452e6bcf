import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sdNotify, watchdogIntervalMs } from './sd-notify.ts';

/** Node.js has no datagram Unix sockets, so Python listens: prints 'ready', then one datagram per line. */
const LISTENER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace('@', chr(0), 1))
print('ready', flush=True)
for _ in range(2): print(repr(s.recv(4096).decode()), flush=True)`;

test.each(['path', 'abstract'])('datagrams reach a %s socket', async (kind) => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-notify-'));
  const socket = kind === 'path' ? join(dir, 'notify') : `@aegis-test-${process.pid}`;
  const listener = spawn('python3', ['-c', LISTENER, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(listener, 'exit');
  let told = '';
  for await (const data of listener.stdout) {
    const first = told === '';
    told += String(data);
    if (first) {
      expect(sdNotify('READY=1\nSTATUS=zoë', { NOTIFY_SOCKET: socket })).toBe(true);
      expect(sdNotify('WATCHDOG=1', { NOTIFY_SOCKET: socket })).toBe(true);
    }
  }
  await exit;
  rmSync(dir, { recursive: true });
  expect(told).toBe("ready\n'READY=1\\nSTATUS=zoë'\n'WATCHDOG=1'\n");
});

test('without a socket, or with a wrong one, nothing happens', () => {
  const sockets = [undefined, '', 'relative', '/no/such/socket', `/${'x'.repeat(200)}`, '@'];
  expect(sockets.map((socket) => sdNotify('READY=1', { NOTIFY_SOCKET: socket }))).toEqual(sockets.map(() => false));
});

test('the watchdog interval is for the named process only', () => {
  expect(watchdogIntervalMs({}, 1)).toBe(null);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000' }, 1)).toBe(30_000);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '1' }, 1)).toBe(30_000);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '2' }, 1)).toBe(null);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: 'x' }, 1)).toBe(null);
});
