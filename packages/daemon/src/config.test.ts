import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadDaemonConfig, shownConfig } from './config.ts';

test('flags > environment > file > defaults, each with its origin', () => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-config-'));
  try {
    const file = join(dir, 'daemon.toml');
    writeFileSync(file, 'max_concurrent = 8\nname = "from-file"\nsite = "fra"\n[labels]\nenv = "prod"\n');
    const { config, origins } = loadDaemonConfig({
      flags: { 'max-concurrent': '16', server: 'https://aegis.example.com/', site: undefined },
      env: { AEGIS_NAME: 'from-env', AEGIS_MAX_CONCURRENT: '9', AEGIS_DATA_DIR: '/srv/aegis', AEGIS_INSECURE_DEV: '0' },
      configFile: file,
    });
    expect(config).toMatchObject({
      max_concurrent: 16,
      name: 'from-env',
      site: 'fra',
      labels: { env: 'prod' },
      server: 'https://aegis.example.com',
      data_dir: '/srv/aegis/daemon',
      insecure_dev: false,
      poll_wait_sec: 30,
    });
    expect(origins).toMatchObject({
      max_concurrent: 'flag',
      name: 'env AEGIS_NAME',
      site: `file ${file}`,
      data_dir: 'env AEGIS_DATA_DIR',
      poll_wait_sec: 'default',
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('AGENT_SVC_URL names the server, unless AEGIS_SERVER does', () => {
  const serverOf = (env: Record<string, string>) => {
    const { config, origins } = loadDaemonConfig({ flags: {}, env });
    return [config.server, origins.server];
  };
  const seed = { AGENT_SVC_URL: 'http://localhost:8080' };
  expect(serverOf(seed)).toEqual(['http://localhost:8080', 'env AGENT_SVC_URL']);
  expect(serverOf({ ...seed, AEGIS_SERVER: 'https://a.example' })).toEqual(['https://a.example', 'env AEGIS_SERVER']);
});

test('AGENT_REGISTRY_URL names where artifacts come from, unless AEGIS_REGISTRY does; otherwise that is the server', () => {
  const registryOf = (env: Record<string, string>) => {
    const { config, origins } = loadDaemonConfig({ flags: {}, env });
    return [config.registry, origins.registry];
  };
  const seed = { AGENT_REGISTRY_URL: 'http://localhost:8090' };
  expect(registryOf(seed)).toEqual(['http://localhost:8090', 'env AGENT_REGISTRY_URL']);
  expect(registryOf({ ...seed, AEGIS_REGISTRY: 'https://a.example' })).toEqual([
    'https://a.example',
    'env AEGIS_REGISTRY',
  ]);
  expect(registryOf({})).toEqual([undefined, 'default']);
});

test.each<[string, Record<string, unknown>, string[]]>([
  ['a word for a number', { max_concurrent: 'many' }, ['max_concurrent', '"many"', 'flag', '1 to 1000']],
  ['out of range', { 'poll-wait-sec': 61 }, ['poll_wait_sec', '61']],
  ['an address with a path', { server: 'https://x/y' }, ['server', 'without a path']],
  ['another protocol', { server: 'ftp://x' }, ['server', 'http://']],
  ['a bad label', { labels: ['=x'] }, ['labels']],
  ['a bad name', { name: 'a b' }, ['name', '1–128']],
  ['a spool of one segment', { spool_bytes: 8192, segment_bytes: 8192 }, ['spool_bytes', '4 × segment_bytes']],
])('%s stops the start and says why', (_, flags, words) => {
  try {
    loadDaemonConfig({ flags, env: {} });
    expect.unreachable();
  } catch (error) {
    expect(error).toMatchObject({ code: 'config.invalid' });
    for (const word of words) expect(String(error)).toContain(word);
  }
});

test('an unknown key in the file is refused, a secret is never shown', () => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-config-'));
  try {
    const file = join(dir, 'daemon.toml');
    writeFileSync(file, 'max_conc = 8\n');
    expect(() => loadDaemonConfig({ flags: {}, env: {}, configFile: file })).toThrow(
      /max_conc = 8 \(file .*there is no such key/,
    );
    expect(() => loadDaemonConfig({ flags: {}, env: {}, configFile: join(dir, 'none') })).toThrow(/cannot be read/);
    const { config } = loadDaemonConfig({ flags: { join_token: 'aegis1.secret' }, env: {} });
    expect(JSON.stringify(shownConfig(config))).not.toContain('secret"');
    expect(shownConfig(config)).toMatchObject({ join_token: '***', server: null });
    expect(() => loadDaemonConfig({ flags: { join_token: '' }, env: {} })).toThrow(/join_token = \*\*\*/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
