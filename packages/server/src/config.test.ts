import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { afterAll, expect, test } from 'vitest';
import { loadServerConfig, shownConfig } from './config.ts';

const folder = mkdtempSync(join(tmpdir(), 'aegis-config-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = (text: string): string => {
  const path = join(folder, `${Math.random()}.toml`);
  writeFileSync(path, text);
  return path;
};
const refusal = (from: Parameters<typeof loadServerConfig>[0]): string => {
  try {
    loadServerConfig(from);
  } catch (error) {
    if (error instanceof AegisError && error.code === 'config.invalid') return error.message;
    throw error;
  }
  return 'accepted';
};

test('flags go over the environment, that over the file, that over defaults; each says where it is from', () => {
  const path = file(
    'log_level = "warn"\nstop_timeout_sec = 3\n[commands]\nretention_days = 7\n[nodes]\nkeyless = false\n',
  );
  const { config, origins } = loadServerConfig({
    flags: { 'log-level': 'debug', 'commands-redeliver-after-ms': '250', listen: ['127.0.0.1:0=api,actions'] },
    env: {
      AEGIS_LOG_LEVEL: 'error',
      AEGIS_STOP_TIMEOUT_SEC: '4',
      DATABASE_URL: 'postgres://u:secret@db/x',
      AEGIS_DATA_DIR: '/d',
    },
    configFile: path,
  });
  expect(config).toMatchObject({
    log_level: 'debug',
    stop_timeout_sec: 4,
    data_dir: '/d/server',
    database_url: 'postgres://u:secret@db/x',
    listen: ['127.0.0.1:0=api,actions'],
    commands: { retention_days: 7, redeliver_after_ms: 250, max_in_flight_per_node: 100 },
    nodes: { keyless: false, offline_after_sec: 90 },
  });
  expect(origins).toMatchObject({
    log_level: 'flag',
    stop_timeout_sec: 'env AEGIS_STOP_TIMEOUT_SEC',
    data_dir: 'env AEGIS_DATA_DIR',
    database_url: 'env DATABASE_URL',
    'commands.retention_days': `file ${path}`,
    'commands.redeliver_after_ms': 'flag',
    'nodes.offline_after_sec': 'default',
  });
  expect(JSON.stringify(shownConfig({ config, origins }))).not.toContain('secret@');
});

test("the seeds' DB_ variables make a URL", () => {
  const env = { DB_HOST: 'localhost', DB_PORT: '5433', DB_USER: 'a b', DB_PASSWORD: 'p/w', DB_NAME: 'fleet' };
  expect(loadServerConfig({ flags: {}, env }).config.database_url).toBe('postgres://a%20b:p%2Fw@localhost:5433/fleet');
});

test('--dev listens on three loopback addresses and needs no data directory', () => {
  expect(loadServerConfig({ flags: { dev: true }, env: {} }).config).toMatchObject({
    data_dir: null,
    listen: ['127.0.0.1:8080=all', '127.0.0.1:8083=actions', '127.0.0.1:8090=registry'],
  });
  expect(loadServerConfig({ flags: {}, env: {} }).config).toMatchObject({
    data_dir: '/var/lib/aegis/server',
    listen: ['127.0.0.1:8080=all'],
  });
});

test.each<[string, Parameters<typeof loadServerConfig>[0], RegExp]>([
  [
    'a wrong number',
    { flags: { 'stop-timeout-sec': 'soon' }, env: {} },
    /^stop_timeout_sec: "soon" \(flag\) is not allowed\. Allowed: a whole number from 0 to 600\.$/,
  ],
  [
    'out of range',
    { flags: {}, env: { AEGIS_COMMANDS_RETENTION_DAYS: '0' } },
    /^commands\.retention_days: "0" \(env AEGIS_COMMANDS_RETENTION_DAYS\)/,
  ],
  ['a wrong word', { flags: { log_level: 'loud' }, env: {} }, /trace, debug, info/],
  ['a wrong address', { flags: { listen: ['8080'] }, env: {} }, /ADDR:PORT=DOOR/],
  ['a wrong door', { flags: { listen: ['127.0.0.1:1=front'] }, env: {} }, /ADDR:PORT=DOOR/],
  [
    '--dev beyond loopback',
    { flags: { dev: true, listen: ['0.0.0.0:8080'] }, env: {} },
    /^listen: "0\.0\.0\.0:8080" \(flag\).*loopback/,
  ],
  [
    'beyond loopback without TLS',
    { flags: { listen: ['127.0.0.1:1', '0.0.0.0:8080'] }, env: {} },
    /^listen: "0\.0\.0\.0:8080" \(flag\) is not allowed\. Allowed: without TLS loopback.*--tls-cert and --tls-key; --tls-self-signed,.*--behind-proxy ADDRESS.*--insecure-listen/,
  ],
  [
    'two certificates',
    { flags: { tls_cert: '/c', tls_key: '/k', tls_self_signed: true }, env: {} },
    /^tls_self_signed/,
  ],
  ["clients' authorities without TLS", { flags: { tls_client_ca: '/c' }, env: {} }, /^tls_client_ca: "\/c" \(flag\)/],
  ['a proxy by name', { flags: { behind_proxy: ['front'] }, env: {} }, /^behind_proxy: \["front"\].*10\.0\.0\.0\/24/],
  ['everyone as a proxy', { flags: { behind_proxy: ['0.0.0.0/0'] }, env: {} }, /^behind_proxy/],
  ['a network that is none', { flags: { behind_proxy: ['10.0.0.0/33'] }, env: {} }, /^behind_proxy/],
  ['a certificate without key', { flags: { tls_cert: '/c' }, env: {} }, /^tls_key: null \(default\).*together/],
  [
    'degraded after offline',
    { flags: { nodes_degraded_after_sec: 90 }, env: {} },
    /less than nodes\.offline_after_sec/,
  ],
  [
    'an unknown key in the file',
    { flags: {}, env: {}, configFile: file('colour = "red"\n') },
    /^colour: there is no such setting/,
  ],
  [
    'an unknown inner key',
    { flags: {}, env: {}, configFile: file('[nodes]\ncolour = "red"\n') },
    /^nodes\.colour: there is no/,
  ],
  ['not TOML', { flags: {}, env: {}, configFile: file('= 3\n') }, /cannot be used/],
  ['no such file', { flags: {}, env: {}, configFile: join(folder, 'missing') }, /missing cannot be used/],
  ['a table for a value', { flags: {}, env: {}, configFile: file('listen = 3\n') }, /^listen: 3 \(file/],
])('refused: %s', (_, from, message) => {
  expect(refusal(from)).toMatch(message);
});

test.each([
  { tls_cert: '/c', tls_key: '/k' },
  { tls_self_signed: true },
  { behind_proxy: ['10.0.0.2', 'fd00::/8'] },
  { insecure_listen: true },
])('a way to listen beyond loopback: %j', (flags) => {
  expect(loadServerConfig({ flags: { ...flags, listen: ['0.0.0.0:8080'] }, env: {} }).config).toMatchObject(flags);
});

test('a refused secret is not repeated', () => {
  expect(refusal({ flags: { database_url: 'mysql://u:hunter2@h/x' }, env: {} })).toMatch(
    /^database_url: \(secret\) \(flag\)/,
  );
  for (const secret of ['hunter2', 'x'.repeat(31)])
    expect(refusal({ flags: {}, env: { JWT_SIGNING_SECRET: secret } })).toBe(
      "jwt_signing_secret: (secret) (env JWT_SIGNING_SECRET) is not allowed. Allowed: at least 32 bytes; 'openssl rand -base64 48' makes one.",
    );
  expect(refusal({ flags: {}, env: { JWT_SIGNING_SECRET: 'x'.repeat(32) } })).toBe('accepted');
  expect(refusal({ flags: { dev: true }, env: { JWT_SIGNING_SECRET: 'hunter2' } })).toBe('accepted');
});
