import { BackupSpec } from '@aegis/protocol/backups/config';
import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { specsIn, toToml } from '../src/backups/spec-file.ts';
import { specOf, unset } from '../src/backups/spec-flags.ts';
import { bytesOf } from '../src/ui/size.ts';
import { configOf, MINIMAL } from './backup-config.ts';

/** A configuration as files and flags say it, and what of either is refused. */

const RICH = {
  ...MINIMAL,
  description: 'a "quoted" ünicode text',
  sources: ['/etc', '/srv/with space'],
  exclude: { patterns: ['*.tmp', '!keep.tmp', '/srv/**/cache'], caches: true, larger_than: 1048576 },
  destination: {
    kind: 's3',
    bucket: 'backups',
    prefix: 'a/b',
    endpoint: 'https://s3.example.com',
    path_style: true,
    access: 'sts',
    sts: { role_arn: 'arn:aws:iam::123456789012:role/backup' },
    ca: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
  },
  encryption: { recipients: [`age1${'q'.repeat(58)}`] },
  schedule: { cron: '30 2 * * *', timezone: 'Europe/Berlin', jitter_sec: 600, catch_up: false },
  bandwidth: {
    upload: 1048576,
    windows: [
      { from: '08:00', to: '18:00', days: ['mon', 'fri'], upload: 2048 },
      { from: '18:00', to: '08:00' },
    ],
  },
  hooks: { before: [{ argv: ['/bin/sh', '-c', 'echo "a\\b"'], timeout_sec: 9, user: 'pg' }] },
  limits: { run_sec: 3600 },
  retries: { max: 0 },
  nodes: ['web-1', "site=fra and label.env='prod'"],
  retention: { keep_daily: 7, keep_within: '2y5m7d3h', keep_tags: [['a', 'b'], ['c']] },
  alerts: { on_failure: false, expect_within_sec: 90000 },
  verification: { every_days: 7 },
  tags: ['nightly'],
  paused: true,
};

test.each([
  ['the least', MINIMAL],
  ['nearly everything', RICH],
  ['a server mode', { ...MINIMAL, execution_mode: 'server' }],
])('what show --toml prints, apply takes back unchanged: %s', (_, spec) => {
  const config = configOf(spec);
  expect(specsIn(toToml(config), 'f')).toEqual([z.parse(BackupSpec, spec)]);
});

test('a file has what differs from the defaults, and nothing else', () => {
  expect(toToml(configOf(MINIMAL))).toBe(`name = "etc"
sources = [ "/etc" ]

[destination]
kind = "file"
path = "/var/backups"
`);
});

test('one, several, as TOML or JSON', () => {
  const two = [MINIMAL, { ...MINIMAL, name: 'srv' }].map((spec) => z.parse(BackupSpec, spec));
  expect(specsIn(JSON.stringify(MINIMAL), 'f')).toEqual(two.slice(0, 1));
  expect(specsIn(JSON.stringify([MINIMAL, { ...MINIMAL, name: 'srv' }]), 'f')).toEqual(two);
  expect(
    specsIn(
      '[[configs]]\nname="etc"\nsources=["/etc"]\ndestination={kind="file",path="/var/backups"}\n[[configs]]\nname="srv"\nsources=["/etc"]\ndestination={kind="file",path="/var/backups"}',
      'f',
    ),
  ).toEqual(two);
});

test.each([
  ['name = "etc', 'f: line 1 is not valid TOML.'],
  ['{"name": "etc",}', 'f: it is not valid JSON.'],
  ['[]', 'f: holds no configuration.'],
  ['{"configs": [], "name": "x"}', "f: 'configs' stands alone: put everything into its members."],
  [JSON.stringify({ ...MINIMAL, sources: ['etc'] }), 'f: sources.0: must be an absolute path without . or ..'],
  [JSON.stringify([MINIMAL, MINIMAL]), "f: 'etc' stands there twice."],
  [
    JSON.stringify([MINIMAL, { ...MINIMAL, name: 'a', colour: 1 }]),
    'f, number 2: the whole: there is no field "colour".',
  ],
])('a bad file: %s', (text, sentence) => {
  expect(() => specsIn(text, 'f')).toThrow(
    `${sentence} See deploy/examples/backup.toml, or 'aegis backups configs show NAME --toml'.`,
  );
});

test('flags say what a file would', () => {
  expect(
    specOf({
      source: ['/etc', '/srv'],
      to: 's3://backups/a/b/',
      endpoint: 'https://s3.example.com',
      region: 'eu-1',
      'path-style': true,
      access: 'sts',
      'sts-role': 'arn:x',
      schedule: '@daily',
      timezone: 'UTC',
      jitter: '10m',
      recipient: ['age1x'],
      exclude: ['*.tmp'],
      'exclude-larger-than': '1.5G',
      'one-file-system': true,
      'keep-daily': 7,
      'keep-tag': ['a,b', 'c'],
      node: ['web-1'],
      'upload-limit': '10M',
      before: ['freeze'],
      'hook-timeout': '90s',
      'alert-after': '2d',
      'catch-up': false,
    }),
  ).toEqual({
    sources: ['/etc', '/srv'],
    destination: {
      kind: 's3',
      bucket: 'backups',
      prefix: 'a/b',
      endpoint: 'https://s3.example.com',
      region: 'eu-1',
      path_style: true,
      access: 'sts',
      sts: { role_arn: 'arn:x' },
    },
    schedule: { cron: '@daily', timezone: 'UTC', jitter_sec: 600, catch_up: false },
    encryption: { recipients: ['age1x'] },
    exclude: { patterns: ['*.tmp'], larger_than: 1610612736, one_file_system: true },
    retention: { keep_daily: 7, keep_tags: [['a', 'b'], ['c']] },
    nodes: ['web-1'],
    bandwidth: { upload: 10485760 },
    hooks: { before: [{ argv: ['/bin/sh', '-c', 'freeze'], timeout_sec: 90 }] },
    alerts: { expect_within_sec: 172800 },
  });
});

test('flags on top of what is there', () => {
  const base = {
    destination: { kind: 's3', bucket: 'a', prefix: 'p', region: 'x' },
    schedule: { cron: '@daily', jitter_sec: 5 },
  };
  expect(specOf({ to: 's3://b', schedule: '@hourly' }, base)).toEqual({
    destination: { kind: 's3', bucket: 'b', prefix: '', region: 'x' },
    schedule: { cron: '@hourly', jitter_sec: 5 },
  });
  const spec = specOf({ to: 'file:///d' }, base);
  unset(spec, 'schedule.jitter_sec');
  expect(spec).toEqual({ destination: { kind: 'file', path: '/d' }, schedule: { cron: '@daily' } });
  expect(base.schedule).toEqual({ cron: '@daily', jitter_sec: 5 });
  expect(() => unset(spec, 'schedule.nope')).toThrow('--unset schedule.nope: it is not set.');
});

test.each([
  ['1', 1],
  ['100k', 102400],
  ['1.5G', 1610612736],
  ['10 MiB', 10485760],
  ['2t', 2199023255552],
  ['x', null],
  ['-1', null],
  ['1e3', null],
])('size %s', (text, bytes) => expect(bytesOf(text)).toBe(bytes));
