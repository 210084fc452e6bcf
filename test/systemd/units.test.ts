import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { root } from '../fleet/fleet.ts';

/** The units as files; test/long/systemd.test.ts runs them. */

const SOURCES = join(root, 'deploy', 'systemd');
const UNITS = readdirSync(SOURCES).sort();
const SERVER_EXPOSURE = 1.5;

/** A root with what systemd-analyze looks for: our units, the targets that they name, something to execute. */
const image = mkdtempSync(join(tmpdir(), 'aegis-units-'));
afterAll(() => rmSync(image, { recursive: true, force: true }));
beforeAll(() => {
  const units = join(image, 'usr/lib/systemd/system');
  mkdirSync(units, { recursive: true });
  mkdirSync(join(image, 'usr/bin'), { recursive: true });
  writeFileSync(join(image, 'usr/bin/aegis'), '#!/bin/sh\n', { mode: 0o755 });
  for (const unit of UNITS) copyFileSync(join(SOURCES, unit), join(units, unit));
  for (const target of ['sysinit', 'basic', 'shutdown', 'network-online', 'multi-user'])
    writeFileSync(join(units, `${target}.target`), `[Unit]\nDescription=${target}\n`);
});

const sectionOf = (unit: string, section: string): Record<string, string> => {
  const settings: Record<string, string> = {};
  let current = '';
  for (const line of readFileSync(join(SOURCES, unit), 'utf8').split('\n')) {
    current = /^\[(\w+)\]$/.exec(line)?.[1] ?? current;
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (current === section && key !== undefined) settings[key] = value ?? '';
  }
  return settings;
};

test('systemd-analyze verify finds nothing to say', () => {
  expect(UNITS).toEqual(['aegis-daemon.service', 'aegis-server.service']);
  const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', `--root=${image}`, ...UNITS], {
    encoding: 'utf8',
  });
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
});

test('the server is exposed as little as a program that compiles at run time can be', () => {
  const text = execFileSync(
    'systemd-analyze',
    ['security', '--offline=true', '--no-pager', join(SOURCES, 'aegis-server.service')],
    { encoding: 'utf8' },
  );
  const [, level = 'none'] = /Overall exposure level for aegis-server\.service: ([\d.]+)/.exec(text) ?? [];
  expect(Number(level)).toBeLessThanOrEqual(SERVER_EXPOSURE);
});

test('commands outlive the daemon: what that rests on', () => {
  expect(sectionOf('aegis-daemon.service', 'Service')).toMatchObject({
    Type: 'notify',
    NotifyAccess: 'main',
    KillMode: 'process',
    Delegate: 'yes',
    Restart: 'always',
    OOMPolicy: 'continue',
    StateDirectory: 'aegis/daemon',
    StateDirectoryMode: '0700',
    UMask: '0077',
  });
  expect(sectionOf('aegis-daemon.service', 'Unit')).toMatchObject({ StartLimitIntervalSec: '0' });
});

test('nothing that gives the daemon, and so every command, a file system or rights other than root has', () => {
  const set = Object.keys(sectionOf('aegis-daemon.service', 'Service'));
  const harmful =
    /^(Protect|Private|Read(Only|Write)|Inaccessible|Root|Bind|Temporary|Mount|NoNewPrivileges|Capability|User|Group|DynamicUser|RestrictNamespaces|RestrictSUIDSGID|RestrictRealtime|MemoryDeny|Device|IPAddress)/;
  expect(set.filter((key) => harmful.test(key))).toEqual([]);
});
