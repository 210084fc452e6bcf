import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { compareVersions, kernelFacts } from './kernel-facts.ts';

test.each([
  ['6.18.44-fc-v595', '6.18.44', 0],
  ['5.15', '5.15.0', 0],
  ['5.15.0-91-generic', '5.15.1', -1],
  ['6.1', '5.15', 1],
  ['10.0', '9.99.99', 1],
  ['6.6.0-rc3', '6.6', 0],
])('%s against %s', (a, b, order) => {
  expect(compareVersions(a, b)).toBe(order);
  expect(compareVersions(b, a)).toBe(order === 0 ? 0 : -order);
});

test('what is missing is named with what to do', () => {
  const root = mkdtempSync(join(tmpdir(), 'aegis-kernel-'));
  try {
    const bare = kernelFacts(root);
    expect(bare.missing('btf')).toMatch(/CONFIG_DEBUG_INFO_BTF/);
    expect(bare.missing('kprobe')).toMatch(/CONFIG_KPROBE_EVENTS/);
    expect(bare.missing('lsm')).toBe(null); // securityfs is not mounted: only trying can tell
    expect(bare.missing('cgroup2')).toBe(null);
    for (const folder of ['sys/kernel/btf', 'sys/kernel/security', 'sys/bus/event_source/devices/kprobe'])
      mkdirSync(join(root, folder), { recursive: true });
    writeFileSync(join(root, 'sys/kernel/btf/vmlinux'), '');
    writeFileSync(join(root, 'sys/kernel/security/lsm'), 'lockdown,capability,yama\n');
    const more = kernelFacts(root);
    expect([more.missing('btf'), more.missing('kprobe')]).toEqual([null, null]);
    expect(more.missing('lsm')).toMatch(/lsm=/);
    writeFileSync(join(root, 'sys/kernel/security/lsm'), 'lockdown,capability,bpf\n');
    expect(more.missing('lsm')).toBe(null);
  } finally {
    rmSync(root, { recursive: true });
  }
});
