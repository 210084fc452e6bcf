import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { DAEMON_KEYS, loadDaemonConfig } from '../../packages/daemon/src/config.ts';
import { CONFIG_KEYS, loadServerConfig } from '../../packages/server/src/config.ts';
import { root } from '../fleet/fleet.ts';

/** The commented configuration files name every key once, with its default. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-config-files-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const shipped = (name: string) => readFileSync(join(root, 'deploy', name), 'utf8');
const written = (name: string, text: string) => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

/** `#key = value` is a setting, `# text` is prose. */
const SETTING = /^#(\w+) = /;
const keysIn = (text: string): string[] => {
  let group = '';
  return text.split('\n').flatMap((line) => {
    group = /^\[(\w+)\]$/.exec(line)?.[1] ?? group;
    const key = SETTING.exec(line)?.[1];
    return key === undefined ? [] : [group === '' ? key : `${group}.${key}`];
  });
};
const uncommented = (text: string, but: readonly string[] = []) =>
  text
    .split('\n')
    .map((line) => (but.includes(SETTING.exec(line)?.[1] ?? '') ? line : line.replace(SETTING, '$1 = ')))
    .join('\n');

const server = (path?: string) => loadServerConfig({ flags: {}, env: {}, configFile: path }).config;
/** Where the policy is looked for hangs on where the file lies. */
const daemon = (path?: string) => {
  const { config } = loadDaemonConfig({ flags: {}, env: {}, configFile: path });
  return { ...config, policy_file: basename(config.policy_file) };
};

const SERVER_EXAMPLES = [
  ...['database_url', 'redis_url', 'jwt_signing_secret', 'token_key', 'token_public_key'],
  ...['tls_cert', 'tls_key', 'tls_client_ca'],
];
const DAEMON_EXAMPLES = [
  'server',
  'registry',
  'join_token',
  'name',
  'site',
  'labels',
  'tls_ca',
  'tls_client_cert',
  'tls_client_key',
  'https_proxy',
  'no_proxy',
  'native_dir',
  'hooks',
];

test('server.toml', () => {
  const text = shipped('server.toml');
  expect(keysIn(text).sort()).toEqual([...CONFIG_KEYS].sort());
  const empty = server(written('empty.toml', ''));
  expect(server(join(root, 'deploy', 'server.toml'))).toEqual(empty);
  expect(
    server(written('server.toml', uncommented(text, [...SERVER_EXAMPLES, 'alert_webhook_secret', 'port']))),
  ).toEqual(empty);
  const whole = server(written('whole-server.toml', uncommented(text)));
  const backups = { ...whole.backups, alert_webhook_secret: null };
  const channel = { ...whole.channel, port: null };
  expect(whole.listen).toEqual([...empty.listen, '127.0.0.1:9090=gateway']);
  const rest = Object.fromEntries(SERVER_EXAMPLES.map((key) => [key, null]));
  expect({ ...whole, ...rest, backups, channel, listen: empty.listen }).toEqual(empty);
});

test('daemon.toml', () => {
  const text = shipped('daemon.toml');
  expect(keysIn(text).sort()).toEqual([...DAEMON_KEYS].sort());
  const empty = daemon(written('empty.toml', ''));
  expect(daemon(join(root, 'deploy', 'daemon.toml'))).toEqual(empty);
  expect(daemon(written('daemon.toml', uncommented(text, DAEMON_EXAMPLES)))).toEqual(empty);
  const {
    server: url,
    registry,
    join_token,
    name,
    site,
    tls_ca,
    tls_client_cert,
    tls_client_key,
    https_proxy,
    no_proxy,
    native_dir,
    hooks,
    ...rest
  } = daemon(written('whole-daemon.toml', uncommented(text)));
  expect(
    [
      url,
      registry,
      join_token,
      name,
      site,
      tls_ca,
      tls_client_cert,
      tls_client_key,
      https_proxy,
      no_proxy,
      native_dir,
    ].every((value) => value !== undefined),
  ).toBe(true);
  expect(Object.keys(hooks)).toEqual(['deploy.status']);
  expect({ ...rest, labels: {}, hooks: {} }).toEqual(empty);
});
