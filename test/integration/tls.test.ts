import { execFile, execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { selfSignedCertificate } from '../../packages/server/src/platform/http/tls-certificate.ts';
import { managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { makeCertificate } from '../fleet/certificate.ts';
import { startConnectProxy } from '../fleet/connect-proxy.ts';
import { aegis, cleanEnv, daemonArgv, serverArgv } from '../fleet/fleet.ts';
import { freePort } from '../fleet/free-port.ts';

/** TLS between the real server, daemon and command line: pins at first contact and later, authorities of one's own, expiry, proxies. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-tls-fleet-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const env = cleanEnv(folder);

interface Said {
  code: number;
  stdout: string;
  stderr: string;
}
const cli = (args: readonly string[], more: Readonly<Record<string, string>>): Promise<Said> =>
  new Promise((resolve) =>
    execFile(aegis, args, { encoding: 'utf8', env: { ...env, ...more } }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  );

/** A server's data and process on a port that stays. */
const prepare = async (name: string, flags: readonly string[]) => {
  const dataDir = join(folder, name);
  const port = await freePort();
  const offline = (...args: string[]) =>
    execFileSync(aegis, ['server', ...args, '--data-dir', dataDir], { encoding: 'utf8', env }).trim();
  offline('init');
  const all = [...flags, '--set', 'tls_reload_sec=1'];
  const server = managedProcess(name, serverArgv(dataDir, port, all), join(folder, `${name}.log`), env);
  return { dataDir, port, url: `https://127.0.0.1:${port}`, server, offline, token: offline('token') };
};
const daemonOf = (
  name: string,
  server: string,
  more: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
) => {
  const dataDir = join(folder, name);
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  return managedProcess(name, daemonArgv({ dataDir, server, name }, flags), join(folder, `${name}.log`), {
    ...env,
    ...more,
  });
};
const serves = (url: string, node: string, more: Readonly<Record<string, string>>) =>
  cli(['submit', '--server', url, '--target', node, '--', 'printf', 'tls'], more);
const sha256Of = (file: string): string =>
  execFileSync('openssl', ['x509', '-in', file, '-noout', '-fingerprint', '-sha256'], { encoding: 'utf8' })
    .trim()
    .split('=')[1] ?? '';

test('a self-signed certificate: pinned by the join token, held on to, renewed under its key, and no other is believed', async () => {
  const home = await prepare('self-signed', ['--tls-self-signed']);
  await using server = home.server;
  await server.start();
  const pin = readFileSync(join(home.dataDir, 'tls', 'pin'), 'utf8').trim();
  const joinToken = home.offline('join-token', '--uses', '2');
  expect(joinToken.split('.')[4]).toBe(pin);
  await using daemon = daemonOf('web-1', home.url, { AEGIS_JOIN_TOKEN: joinToken });
  await daemon.start();
  const pinned = { AEGIS_TOKEN: home.token, AEGIS_TLS_FINGERPRINT: pin };
  expect(await serves(home.url, 'web-1', pinned)).toEqual({ code: 0, stdout: 'tls', stderr: '' });

  // The command line without the pin, and with another one.
  const unpinned = await cli(['nodes', 'list', '--server', home.url], { AEGIS_TOKEN: home.token });
  expect(unpinned).toMatchObject({ code: 1, stderr: expect.stringContaining('its certificate is self-signed') });
  const wrong = { ...pinned, AEGIS_TLS_FINGERPRINT: 'ab'.repeat(32) };
  const refusedPin = await cli(['nodes', 'list', '--server', home.url], wrong);
  expect(refusedPin).toMatchObject({ code: 1, stderr: expect.stringContaining('is not the pinned one') });
  // In a context, as openssl prints it.
  const made = [
    'context',
    'set',
    'home',
    '--server',
    home.url,
    '--tls-fingerprint',
    sha256Of(join(home.dataDir, 'tls', 'cert.pem')),
  ];
  expect((await cli(made, { AEGIS_TOKEN: home.token })).code).toBe(0);
  expect(await cli(['nodes', 'list', '--json'], {})).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('web-1'),
  });

  // A join token that names another certificate: refused before anything is said.
  const forged = [...joinToken.split('.').slice(0, 4), 'cd'.repeat(32)].join('.');
  const first = await cli(['register', '--server', home.url, '--name', 'web-2', '--data-dir', join(folder, 'web-2')], {
    AEGIS_JOIN_TOKEN: forged,
  });
  expect(first).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('another TLS certificate than the join token names'),
  });

  // Renewed under the same key while all goes on: the node stays, and new join tokens name the new certificate.
  rmSync(join(home.dataDir, 'tls', 'cert.pem'));
  await waitFor('a new certificate to be served', () => {
    const file = join(home.dataDir, 'tls', 'pin');
    return readFileSync(file, 'utf8').trim() !== pin;
  });
  await daemon.stop();
  await daemon.start();
  const renewed = { ...pinned, AEGIS_TLS_FINGERPRINT: readFileSync(join(home.dataDir, 'tls', 'pin'), 'utf8').trim() };
  expect(await serves(home.url, 'web-1', renewed)).toEqual({ code: 0, stdout: 'tls', stderr: '' });

  // Somebody else at the same address, with everything but the key.
  await server.stop();
  renameSync(join(home.dataDir, 'tls'), join(folder, 'tls-of-home'));
  await server.start();
  const at = daemon.log().length;
  await waitFor(
    'the node to refuse the other key',
    () => daemon.log().slice(at).includes('TLS certificate is not the pinned one'),
    60_000,
  );
  await server.stop();
  rmSync(join(home.dataDir, 'tls'), { recursive: true });
  renameSync(join(folder, 'tls-of-home'), join(home.dataDir, 'tls'));
  await server.start();
  expect(await serves(home.url, 'web-1', renewed)).toEqual({ code: 0, stdout: 'tls', stderr: '' });
}, 180_000);

test('an authority of one’s own, through a proxy that alone knows the way, and mutual TLS', async () => {
  const certificate = makeCertificate(folder, 'authority', null);
  const named = [
    '-addext',
    'subjectAltName=DNS:aegis.test',
    '-keyout',
    join(folder, 'named.key'),
    '-out',
    join(folder, 'named.pem'),
  ];
  execFileSync(
    'openssl',
    [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
        '-subj',
        '/CN=server',
      ],
      ...named,
    ],
    { stdio: 'ignore' },
  );
  const home = await prepare('mutual', [
    ...['--tls-cert', join(folder, 'named.pem'), '--tls-key', join(folder, 'named.key')],
    ...['--tls-client-ca', certificate.certFile],
  ]);
  await using server = home.server;
  await server.start();
  await using proxy = await startConnectProxy();
  const url = `https://aegis.test:${home.port}`;
  const shown = { AEGIS_TLS_CLIENT_CERT: certificate.certFile, AEGIS_TLS_CLIENT_KEY: certificate.keyFile };
  const both = { ...shown, AEGIS_TLS_CA: join(folder, 'named.pem'), AEGIS_TOKEN: home.token };
  const through = { ...both, HTTPS_PROXY: proxy.url, NO_PROXY: 'example.net, 10.0.0.0/8' };
  await using daemon = daemonOf('web-3', url, { ...through, AEGIS_JOIN_TOKEN: home.offline('join-token') });
  await daemon.start();
  expect(await serves(url, 'web-3', through)).toEqual({ code: 0, stdout: 'tls', stderr: '' });
  expect([...new Set(proxy.asked)]).toEqual([`CONNECT aegis.test:${home.port} 200`]);

  const list = ['nodes', 'list', '--server', url];
  const { HTTPS_PROXY: _, ...straight } = through;
  expect(await cli(list, straight)).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/no such host|could not be looked up/),
  });
  expect(await cli(list, { ...through, NO_PROXY: '.test' })).toMatchObject({ code: 1 });
  const stranger = await cli(list, { ...through, HTTPS_PROXY: proxy.url.replace('node:', 'other:') });
  expect(stranger).toMatchObject({ code: 1, stderr: expect.stringContaining('wants a user and a password (407)') });
  expect(stranger.stderr).not.toMatch(/pass(?:%20| )word/);
  const { AEGIS_TLS_CA: __, ...unknown } = through;
  expect(await cli(list, unknown)).toMatchObject({ code: 1, stderr: expect.stringContaining('self-signed') });
  const { AEGIS_TLS_CLIENT_CERT: ___, AEGIS_TLS_CLIENT_KEY: ____, ...unshown } = through;
  expect(await cli(list, unshown)).toMatchObject({ code: 1 });
}, 120_000);

test('an expired certificate is refused, by an authority and by its fingerprint', async () => {
  const [key, cert] = [join(folder, 'old.key'), join(folder, 'old.pem')];
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const old = { commonName: 'old', names: ['127.0.0.1'], serial: Buffer.from([1]) };
  const [notBeforeMs, notAfterMs] = [Date.UTC(2025, 0, 1), Date.UTC(2025, 1, 1)];
  writeFileSync(key, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  writeFileSync(cert, selfSignedCertificate({ ...old, key: privateKey, notBeforeMs, notAfterMs }));
  const home = await prepare('expired', ['--tls-cert', cert, '--tls-key', key]);
  await using server = home.server;
  await server.start();
  const list = ['nodes', 'list', '--server', home.url];
  for (const trusted of [{ AEGIS_TLS_CA: cert }, { AEGIS_TLS_FINGERPRINT: sha256Of(cert) }] as Record<string, string>[])
    expect(await cli(list, { AEGIS_TOKEN: home.token, ...trusted })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('its certificate has expired'),
    });
  const joinToken = home.offline('join-token', '--tls-fingerprint', sha256Of(cert));
  const joined = await cli(['register', '--server', home.url, '--name', 'web-4', '--data-dir', join(folder, 'web-4')], {
    AEGIS_JOIN_TOKEN: joinToken,
  });
  expect(joined).toMatchObject({ code: 1, stderr: expect.stringContaining('not now') });
}, 60_000);
