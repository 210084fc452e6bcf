import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ownCgroup, sweepExecutionCgroups } from './cgroups.ts';

const folder = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-cgroups-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
};

test('the own cgroup is where a cgroup2 mount and the process meet, when it can be written', () => {
  const dir = folder();
  const mount = join(dir, 'unified');
  mkdirSync(join(mount, 'system.slice/aegis.service'), { recursive: true });
  const told = (cgroup: string, mountinfo: string): string | null => {
    writeFileSync(join(dir, 'cgroup'), cgroup);
    writeFileSync(join(dir, 'mountinfo'), mountinfo);
    return ownCgroup(dir);
  };
  const v2 = `30 23 0:26 / ${mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n`;
  const v1 = `31 23 0:27 / ${mount} rw - cgroup cgroup rw,cpu\n`;
  const here = '3:cpu:/x\n0::/system.slice/aegis.service\n';
  expect(told(here, v1 + v2)).toBe(null); // nothing to write to yet
  writeFileSync(join(mount, 'system.slice/aegis.service/cgroup.procs'), '');
  expect(told(here, v1 + v2)).toBe(join(mount, 'system.slice/aegis.service'));
  expect(told(here, v1)).toBe(null);
  expect(told('3:cpu:/x\n', v2)).toBe(null);
  expect(told('0::/elsewhere\n', v2)).toBe(null);
});

test('sweeping removes empty execution cgroups only', () => {
  const dir = folder();
  for (const name of ['exec-a', 'exec-b/inner', 'other']) mkdirSync(join(dir, name), { recursive: true });
  expect(sweepExecutionCgroups(dir)).toEqual(['b']);
  expect(readdirSync(dir).sort()).toEqual(['exec-b', 'other']);
});
