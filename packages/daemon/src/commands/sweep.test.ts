import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { silentLog } from '../platform/log.ts';
import { cgroupSweep } from './sweep.ts';

const idOf = (last: string): string => `01890000-0000-7000-8000-00000000000${last}`;

test('cgroups that are empty and old go; live, young, inhabited and foreign ones stay', () => {
  const parent = mkdtempSync(join(tmpdir(), 'aegis-sweep-'));
  onTestFinished(() => rmSync(parent, { recursive: true }));
  const now = Date.now();
  const made = (name: string, ageMs: number): void => {
    mkdirSync(join(parent, name), { recursive: true });
    utimesSync(join(parent, name), (now - ageMs) / 1000, (now - ageMs) / 1000);
  };
  mkdirSync(join(parent, `exec-${idOf('4')}/inner`), { recursive: true }); // not to be removed, as one with processes
  for (const last of ['1', '2', '4']) made(`exec-${idOf(last)}`, 3_600_000);
  made(`exec-${idOf('3')}`, 1000);
  made('exec-other', 3_600_000);
  made('elsewhere', 3_600_000);
  const clock = { now };
  const sweep = cgroupSweep({ parent, isLive: (id) => id === idOf('2'), now: () => clock.now, log: silentLog() });
  const left = (): string[] => readdirSync(parent).sort();
  sweep();
  expect(left()).toEqual(['elsewhere', `exec-${idOf('2')}`, `exec-${idOf('3')}`, `exec-${idOf('4')}`, 'exec-other']);
  clock.now += 3_600_000;
  made(`exec-${idOf('3')}`, -3_600_000); // the kernel lost its time
  sweep();
  expect(left()).toEqual(['elsewhere', `exec-${idOf('2')}`, `exec-${idOf('4')}`, 'exec-other']);
});

test('a parent that is gone is no failure', () => {
  cgroupSweep({ parent: '/nonexistent', isLive: () => false, now: Date.now, log: silentLog() })();
});
