import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cleanEnv, root } from '../fleet/fleet.ts';

/** The README's first command, as a new user runs it. */

test('bin/quickstart shows the whole way of a command, and leaves nothing behind', () => {
  const tmp = mkdtempSync(join(tmpdir(), 'aegis-quickstart-test-'));
  const { status, stdout, stderr } = spawnSync(join(root, 'bin/quickstart'), [], {
    encoding: 'utf8',
    cwd: tmp,
    env: cleanEnv(tmp, { TMPDIR: tmp }),
    timeout: 120_000,
  });
  expect({ status, stderr: stderr.replace(/^aegis: registered\..*\n/m, '') }).toEqual({ status: 0, stderr: '' });
  expect(stdout.match(/load average/g)).toHaveLength(5);
  expect(stdout).toContain("ls: cannot access '/no/such/place': No such file or directory\nexit code 2\n");
  expect(stdout).toContain('\nEVERY BYTE COMES BACK\n');
  const backup = /\n7\. A backup.*\n([\s\S]*)\n\n8\. /.exec(stdout)?.[1] ?? '';
  expect(backup).toMatch(/\nage1[a-z0-9]{58}\n/);
  expect(backup).toMatch(/\nthis-machine {2}completed {2}3 {6}106 KiB {2}/);
  expect(backup).toMatch(/\nthis-machine {2}completed {2}6 .*\n\$ diff -r notes notes\.before\nthe same$/);
  // From a C file to a ping that does not come back, and back again. Without root it says so instead.
  const artifact = /\n8\. An eBPF artifact.*\n([\s\S]*)\n\n9\. /.exec(stdout)?.[1] ?? '';
  if (process.getuid?.() === 0) {
    expect(artifact.match(/^(answers|blocked)$/gm)).toEqual(['answers', 'blocked', 'answers']);
    expect(artifact).toMatch(/\nblock-icmp {2}in-there {2}1\.0\.0 {4}attached {2}1\/1 {7}0 {6}t\S+ egress on uplink\n/);
    expect(artifact).toMatch(/\nKEY {2}VALUE\n0 {4}\{"packets":[1-9]\d*,"bytes":[1-9]\d*\}\n/);
    expect(artifact).toMatch(/\nblock-icmp {2}in-there {2}- {8}detached {2}- {9}0\nanswers$/);
  } else expect(artifact).toBe("left out: eBPF needs root's rights; run bin/quickstart as root");
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('quickstart: everything was as it should be');
  // The compile cache is the user's own and stays.
  expect(readdirSync(tmp).filter((name) => name.startsWith('aegis-quickstart'))).toEqual([]);
  expect(startedUnder(tmp)).toEqual([]);
  rmSync(tmp, { recursive: true, force: true });
}, 150_000);

/** Processes that have the folder in their environment. */
const startedUnder = (folder: string): string[] =>
  readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .flatMap((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(folder)
          ? [readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')]
          : [];
      } catch {
        return []; // it has ended meanwhile, or is somebody else's
      }
    });

test('the scripts are what a POSIX shell understands', () => {
  for (const name of readdirSync(join(root, 'bin'))) {
    expect(readFileSync(join(root, 'bin', name), 'utf8').split('\n')[0]).toBe('#!/bin/sh');
    execFileSync('/bin/sh', ['-n', join(root, 'bin', name)]);
  }
});
