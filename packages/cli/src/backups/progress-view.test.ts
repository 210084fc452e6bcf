import { expect, test } from 'vitest';
import type { Surroundings } from '../surroundings.ts';
import { progressOf, progressView, terminalView } from './progress-view.ts';

const stage = (terminal: boolean, env: Record<string, string> = { TERM: 'xterm' }) => {
  let now = 0;
  let said = '';
  const around: Surroundings = {
    env,
    now: () => now,
    pause: async () => undefined,
    output: {
      outIsTerminal: terminal,
      errIsTerminal: terminal,
      colour: false,
      out: async () => undefined,
      err: async (text) => {
        said += String(text);
      },
    },
  };
  return {
    around,
    after: (ms: number) => {
      now += ms;
    },
    said: () => {
      const text = said;
      said = '';
      return text;
    },
  };
};
const at = (bytes: number, more = {}) =>
  progressOf({ phase: 'archiving', bytes, bytes_total: 1000, files: 1, path: '/etc/\u001b[2Jx', ...more });

test('on a terminal one line with a bar, drawn anew at most ten times a second, and taken away', async () => {
  const { around, after, said } = stage(true);
  const view = progressView(around);
  await view.show('web-1', at(500));
  expect(said()).toBe('\r\u001b[Kweb-1 [############------------] archiving 50% of 1000 B, 1 file  /etc/x');
  after(50);
  await view.show('web-1', at(600));
  expect(said()).toBe('');
  after(100);
  await view.show('web-2', at(1000, { bytes_per_sec: 10 }));
  expect(said()).toBe('\r\u001b[K2 nodes [###################-----] running 80% of 2.0 KiB, 2 files, 10 B/s, 40…');
  await view.clear();
  expect(said()).toBe('\r\u001b[K');
  await view.clear();
  expect(said()).toBe('');
});

test('without one a line for each phase, and each five seconds', async () => {
  const { around, after, said } = stage(false);
  const view = progressView(around);
  await view.show('web-1', at(0, { phase: 'scanning', bytes_total: 0 }));
  await view.show('web-1', at(100));
  after(4999);
  await view.show('web-1', at(200));
  after(1);
  await view.show('web-1', at(2000, { errors: 2 }));
  await view.clear();
  expect(said()).toBe(`web-1: scanning 0 B, 1 file
web-1: archiving 10% of 1000 B, 1 file
web-1: archiving 100% of 1000 B, 1 file, 2 errors
`);
  await terminalView(around).show('web-1', at(1));
  expect(said()).toBe('');
});
