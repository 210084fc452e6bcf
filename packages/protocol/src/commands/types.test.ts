import { expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import { toProcess, validatePayload } from './types.ts';

const aegis = { launcher: ['node', '/opt/aegis.cjs'], dataDir: '/var/lib/aegis/daemon' };
const tools = { packageManager: 'apt', compose: ['docker', 'compose'], aegis } as const;
const own = [...aegis.launcher, 'daemon'];
const json = ['--json', '--data-dir', aegis.dataDir];
const argv = (type: string, payload: unknown) => toProcess(type, payload, tools).argv;

test('a RunCommand with every field', () => {
  expect(
    toProcess(
      'RunCommand',
      {
        cmd: 'cat; id',
        user: 'nobody',
        cwd: '/tmp',
        env: { A: '1' },
        stdin: '/w==',
        stdin_encoding: 'base64',
        umask: '027',
        timeout_sec: 5,
        grace_sec: 1,
      },
      tools,
    ),
  ).toEqual({
    argv: ['/bin/sh', '-c', 'cat; id'],
    env: { A: '1' },
    user: 'nobody',
    cwd: '/tmp',
    umask: '027',
    stdin: Buffer.from([0xff]),
    timeoutSec: 5,
    graceSec: 1,
  });
});

test.each([
  ['RunCommand', { argv: ['ls', '-l'] }, ['ls', '-l']],
  ['exec', { argv: ['a b', '$(x)'] }, ['a b', '$(x)']],
  [
    'UpdatePackage',
    { action: 'upgrade' },
    ['apt-get', '-y', '-o', 'Dpkg::Options::=--force-confdef', '-o', 'Dpkg::Options::=--force-confold', 'upgrade'],
  ],
  ['UpdatePackage', { action: 'remove', packages: ['curl'], manager: 'dnf' }, ['dnf', '-y', 'remove', 'curl']],
  ['docker.ps', { all: true }, ['docker', 'ps', '--no-trunc', '--format={{json .}}', '--all']],
  ['docker.logs', { container: 'web', tail: 5 }, ['docker', 'logs', '--tail=5', '--', 'web']],
  [
    'docker.exec',
    { container: 'web', argv: ['sh', '-c', 'x'], env: { K: 'v' } },
    ['docker', 'exec', '--env=K=v', '--', 'web', 'sh', '-c', 'x'],
  ],
  [
    'docker.run',
    { image: 'redis:7', detach: true, publish: ['6379:6379'] },
    ['docker', 'run', '--detach', '--publish=6379:6379', '--', 'redis:7'],
  ],
  ['compose.up', { project_dir: '/srv/app', services: ['web'] }, ['docker', 'compose', 'up', '-d', 'web']],
  ['artifacts.maps', { artifact: 'block-icmp' }, [...own, 'maps', 'block-icmp', ...json]],
  [
    'artifacts.maps',
    { artifact: 'block-icmp', map: 'dropped', limit: 5 },
    [...own, 'maps', 'block-icmp', 'dropped', '--limit', '5', ...json],
  ],
  ['artifacts.events', { artifact: 'exec', map: 'events' }, [...own, 'events', 'exec', '--map', 'events', ...json]],
  ['artifacts.measure', { seconds: 5 }, [...own, 'attachments', '--measure', '5', ...json]],
  ['artifacts.measure', { artifact: 'exec', seconds: 1 }, [...own, 'attachments', 'exec', '--measure', '1', ...json]],
])('%s %j', (type, payload, expected) => {
  expect(argv(type, payload)).toEqual(expected);
});

test.each([
  ['RunCommand', {}, 'RunCommand: payload: give either cmd or argv.'],
  ['RunCommand', { cmd: 'x', timeout: 3 }, 'RunCommand: payload: Unrecognized key: "timeout".'],
  [
    'RunCommand',
    { cmd: 'x', timeout_sec: -1 },
    'RunCommand: payload.timeout_sec: Too small: expected number to be >=0.',
  ],
  ['RunCommand', { cmd: 'x\0' }, 'RunCommand: payload.cmd: may not contain a NUL byte.'],
  [
    'exec',
    { argv: ['cat'], stdin: 'YWJj*', stdin_encoding: 'base64' },
    'exec: payload.stdin: is not base64 (RFC 4648, with padding).',
  ],
  ['RunCommand', { argv: [] }, 'RunCommand: payload.argv: Too small: expected array to have >=1 items.'],
  ['RunCommand', { cmd: 'x', cwd: 'tmp' }, 'RunCommand: payload.cwd: must be an absolute path.'],
  ['RunCommand', { cmd: 'x', env: { 'A=B': '1' } }, 'RunCommand: payload.env.A=B: not an environment variable name.'],
  ['RunCommand', { cmd: 'x', user: '-u' }, 'RunCommand: payload.user: not a user name or uid.'],
  ['docker.stop', { container: '--all' }, 'docker.stop: payload.container: not a container name or id.'],
  ['UpdatePackage', { action: 'install', packages: ['-y'] }, 'UpdatePackage: payload.packages.0: not a package name.'],
  ['UpdatePackage', { action: 'install' }, 'UpdatePackage: payload: name at least one package.'],
  [
    'artifacts.maps',
    { artifact: '--help' },
    'artifacts.maps: payload.artifact: an artifact name has 1–63 of a-z 0-9 . _ - and starts with a letter or digit.',
  ],
  ['artifacts.events', { artifact: 'exec', map: '--all' }, "artifacts.events: payload.map: not a map's name."],
  [
    'artifacts.maps',
    { artifact: 'exec', limit: 0 },
    'artifacts.maps: payload.limit: Too small: expected number to be >=1.',
  ],
  [
    'artifacts.measure',
    { seconds: 3601 },
    'artifacts.measure: payload.seconds: Too big: expected number to be <=3600.',
  ],
  [
    'artifacts.measure',
    { artifact: 'exec' },
    'artifacts.measure: payload.seconds: Invalid input: expected number, received undefined.',
  ],
])('%s %j is refused naming the field', (type, payload, message) => {
  expect(() => validatePayload(type, payload)).toThrow(message);
});

test.each(['Nope', '__proto__', 'toString', 'UpdateAgent'])('the type %s is refused', (type) => {
  expect(() => validatePayload(type, {})).toThrow(expect.objectContaining({ code: 'commands.unsupported_type' }));
  expect(() => validatePayload(type, {})).toThrow(AegisError);
});

test('a node that does not find its own program says so', () => {
  expect(() => toProcess('artifacts.maps', { artifact: 'exec' }, { ...tools, aegis: null })).toThrow(
    "This node's daemon does not find the 'aegis' that belongs to it, and so cannot start it. Install it beside the daemon's bundle.",
  );
});
