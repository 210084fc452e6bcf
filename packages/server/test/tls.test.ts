import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, connect } from 'node:tls';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { healthz } from '@aegis/protocol/nodes/endpoints';
import pino from 'pino';
import { afterAll, expect, test } from 'vitest';
import { type Certificate, makeCertificate } from '../../../test/fleet/certificate.ts';
import { issueJoinToken } from '../src/offline.ts';
import { startTestServer } from './start-test-server.ts';

const folder = mkdtempSync(join(tmpdir(), 'aegis-tls-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const listening = () => {
  const lines: { level: number; msg: string; [key: string]: unknown }[] = [];
  return { lines, log: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }) };
};

/** The certificate that a new connection is shown. */
const shown = (
  url: string,
  options: ConnectionOptions = {},
): Promise<{ fingerprint: string; protocol: string | null; cipher: string }> =>
  new Promise((resolve, reject) => {
    const { hostname: host, port } = new URL(url);
    const socket = connect({ host, port: Number(port), rejectUnauthorized: false, ...options }, () => {
      const { fingerprint256 } = socket.getPeerCertificate();
      resolve({ fingerprint: fingerprint256, protocol: socket.getProtocol(), cipher: socket.getCipher().standardName });
      socket.destroy();
    });
    socket.on('error', reject);
  });
const fingerprint = (certificate: Certificate) => new X509Certificate(certificate.cert).fingerprint256;

const ask = (url: string, agent: Agent): Promise<number | undefined> =>
  new Promise((resolve, reject) => {
    request(`${url}/healthz`, { agent }, (answer) => {
      answer
        .on('error', reject)
        .on('end', () => resolve(answer.statusCode))
        .resume();
    })
      .on('error', reject)
      .end();
  });

test('a renewed certificate is served without a failed request: renamed into place, and by a swapped link', async () => {
  const [first, second, third, foreign] = ['first', 'second', 'third', 'foreign'].map((name) =>
    makeCertificate(folder, name),
  );
  if (!first || !second || !third || !foreign) throw new Error('unreachable');
  // As Kubernetes does: cert.pem → data/cert.pem, data → a folder for each version.
  const version = (name: string, { key, cert }: Pick<Certificate, 'key' | 'cert'>): string => {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'cert.pem'), cert);
    writeFileSync(join(folder, name, 'key.pem'), key);
    return name;
  };
  const swap = (name: string): void => {
    symlinkSync(name, join(folder, 'data.next'));
    renameSync(join(folder, 'data.next'), join(folder, 'data'));
  };
  swap(version('v1', first));
  symlinkSync('data/cert.pem', join(folder, 'cert.pem'));
  symlinkSync('data/key.pem', join(folder, 'key.pem'));
  const { lines, log } = listening();
  await using server = await startTestServer({
    config: { tls_cert: join(folder, 'cert.pem'), tls_key: join(folder, 'key.pem'), tls_reload_sec: 1 },
    log,
  });

  const kept = new Agent({ keepAlive: true, rejectUnauthorized: false });
  const fresh = new Agent({ keepAlive: false, rejectUnauthorized: false });
  const answers = new Map<unknown, number>();
  let over = false;
  const traffic = [kept, kept, fresh, fresh].map(async (agent) => {
    while (!over) {
      const status = await ask(server.url, agent).catch((error: unknown) => String(error));
      answers.set(status, (answers.get(status) ?? 0) + 1);
    }
  });
  const served = (of: Certificate) =>
    expect.poll(async () => (await shown(server.url)).fingerprint, { timeout: 20_000 }).toBe(fingerprint(of));
  const said = (part: RegExp) =>
    expect.poll(() => lines.filter(({ msg }) => part.test(msg)).length, { timeout: 20_000 });

  await served(first);
  swap(version('v2', second));
  await served(second);
  // As certbot's hooks do: one file after the other, so that for a moment they do not belong together.
  const rename = (name: string, text: string): void => {
    writeFileSync(join(folder, `${name}.next`), text);
    renameSync(join(folder, `${name}.next`), join(folder, name));
  };
  rename('cert.pem', third.cert);
  await said(/the key in .* is not the one of the certificate/).toBe(1);
  await served(second);
  rename('key.pem', third.key);
  await served(third);
  rename('cert.pem', 'rubbish');
  await said(/holds no certificate in PEM\. The certificate that was good goes on/).toBe(1);
  rmSync(join(folder, 'cert.pem'));
  await said(/cert\.pem cannot be read/).toBe(1);
  await served(third);

  over = true;
  await Promise.all(traffic);
  expect([...answers.keys()]).toEqual([200]);
  expect(answers.get(200)).toBeGreaterThan(20);
  expect(lines.filter(({ msg }) => msg === 'a new TLS certificate is served').length).toBe(2);
  kept.destroy();
  fresh.destroy();
});

test.each([
  [{ minVersion: 'TLSv1.3' }, /^TLSv1\.3$/, /^TLS_/],
  [{ maxVersion: 'TLSv1.2' }, /^TLSv1\.2$/, /^TLS_ECDHE_.*(?:GCM_SHA|CHACHA20)/],
] as const)('%j is spoken', async (options, protocol, cipher) => {
  const { keyFile, certFile } = makeCertificate(folder, 'spoken');
  await using server = await startTestServer({ config: { tls_cert: certFile, tls_key: keyFile } });
  const { protocol: spoken, cipher: used } = await shown(server.url, options);
  expect([spoken, used]).toEqual([expect.stringMatching(protocol), expect.stringMatching(cipher)]);
});

test('old versions and ciphers without forward secrecy are not spoken, and a pair that is no good stops the start', async () => {
  const { keyFile, certFile } = makeCertificate(folder, 'strict');
  await using server = await startTestServer({ config: { tls_cert: certFile, tls_key: keyFile } });
  await expect(
    shown(server.url, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }),
  ).rejects.toThrow(/protocol version/);
  await expect(
    shown(server.url, { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA:AES128-SHA' }),
  ).rejects.toThrow(/handshake failure/);
  const other = makeCertificate(folder, 'other');
  await expect(startTestServer({ config: { tls_cert: certFile, tls_key: other.keyFile } })).rejects.toMatchObject({
    code: 'config.invalid',
    message: `tls_key: the key in ${other.keyFile} is not the one of the certificate in ${certFile}; the server's own certificate comes first in its file.`,
  });
});

test('an expired certificate is told at the start', async () => {
  const { keyFile, certFile } = makeCertificate(folder, 'old');
  const { lines, log } = listening();
  const now = () => Date.now() + 3 * 86_400_000;
  await using _server = await startTestServer({
    config: { tls_cert: certFile, tls_key: keyFile },
    log,
    clock: { now },
  });
  expect(lines.filter(({ level }) => level === 50).map(({ msg }) => msg)).toEqual([
    'the TLS certificate has expired: clients refuse it. Put a new one in its place, it is read by itself',
  ]);
});

test('mutual TLS: only who shows a certificate of the named authority gets as far as a request', async () => {
  const { keyFile, certFile } = makeCertificate(folder, 'mutual');
  const [client, stranger] = [makeCertificate(folder, 'client'), makeCertificate(folder, 'stranger')];
  await using server = await startTestServer({
    config: { tls_cert: certFile, tls_key: keyFile, tls_client_ca: client.certFile },
  });
  const as = (pair: { key?: string; cert?: string }) => {
    const { key, cert } = pair;
    return ask(server.url, new Agent({ rejectUnauthorized: false, ...(key && cert ? { key, cert } : {}) }));
  };
  expect(await as(client)).toBe(200);
  await expect(as(stranger)).rejects.toThrow();
  await expect(as({})).rejects.toThrow();
});

test('a self-signed certificate: private files, a fingerprint in join tokens while it is served, one key for ever', async () => {
  let now = Date.now();
  const clock = { now: () => now };
  const { lines, log } = listening();
  await using server = await startTestServer({ config: { tls_self_signed: true, tls_reload_sec: 1 }, clock, log });
  const own = join(server.dataDir, 'tls');
  expect(
    ['', 'cert.pem', 'key.pem', 'pin'].map((name) => (statSync(join(own, name)).mode & 0o777).toString(8)),
  ).toEqual(['700', '600', '600', '600']);
  const read = () => new X509Certificate(readFileSync(join(own, 'cert.pem')));
  const hex = (certificate: X509Certificate) => certificate.fingerprint256.replaceAll(':', '').toLowerCase();
  const first = read();
  expect((await shown(server.url)).fingerprint).toBe(first.fingerprint256);
  expect(parseJoinToken(await server.joinToken()).tlsFingerprint).toBe(hex(first));
  const verified = ['verify', '-purpose', 'sslserver', '-verify_ip', '127.0.0.1', '-CAfile', join(own, 'cert.pem')];
  expect(execFileSync('openssl', [...verified, join(own, 'cert.pem')], { encoding: 'utf8' })).toContain(': OK');

  await server.restart();
  expect((await shown(server.url)).fingerprint).toBe(first.fingerprint256);
  now += 9.5 * 365 * 86_400_000;
  await expect
    .poll(async () => (await shown(server.url)).fingerprint, { timeout: 20_000 })
    .not.toBe(first.fingerprint256);
  const second = read();
  expect(second.publicKey.export({ type: 'spki', format: 'der' })).toEqual(
    first.publicKey.export({ type: 'spki', format: 'der' }),
  );
  await expect.poll(async () => parseJoinToken(await server.joinToken()).tlsFingerprint).toBe(hex(second));
  expect(lines.some(({ tls_fingerprint }) => tls_fingerprint === hex(second))).toBe(true);
});

test('join tokens name no certificate that is no longer served', async () => {
  const dataDir = mkdtempSync(join(folder, 'data-'));
  {
    await using _server = await startTestServer({ dataDir, config: { tls_self_signed: true } });
  }
  expect(parseJoinToken(await issueJoinToken({ dataDir, ttlSec: 60, uses: 1 })).tlsFingerprint).toMatch(
    /^[0-9a-f]{64}$/,
  );
  await using _plain = await startTestServer({ dataDir });
  expect(parseJoinToken(await issueJoinToken({ dataDir, ttlSec: 60, uses: 1 })).tlsFingerprint).toBeUndefined();
});

test('forwarded addresses are believed from the named proxies alone, nearest first', async () => {
  const limited = { rate_limits_failed_auth_burst: 1, rate_limits_failed_auth_per_sec: 1 };
  const now = Date.now();
  const clock = { now: () => now }; // no token comes back
  const statuses = async (config: object, forwarded: readonly (string | undefined)[]) => {
    await using server = await startTestServer({ clock, config: { ...limited, ...config } });
    const got: number[] = [];
    for (const value of forwarded) {
      const headers = { authorization: 'Bearer wrong', ...(value === undefined ? {} : { 'x-forwarded-for': value }) };
      got.push((await server.as('anyone').raw('GET', '/agents', { headers })).status);
    }
    return got;
  };
  expect(await statuses({}, ['192.0.2.1', '192.0.2.2'])).toEqual([401, 429]);
  expect(await statuses({ behind_proxy: ['10.0.0.0/8'] }, ['192.0.2.1', '192.0.2.2'])).toEqual([401, 429]);
  expect(
    await statuses({ behind_proxy: ['127.0.0.1', '10.0.0.0/8'] }, [
      '192.0.2.1',
      '192.0.2.2',
      '192.0.2.2',
      '198.51.100.9, 192.0.2.1', // what the caller itself put there comes first, and counts for nothing
      '192.0.2.3, 10.1.1.1', // two proxies of ours
      '192.0.2.3',
    ]),
  ).toEqual([401, 401, 429, 429, 401, 429]);
});

test('the scheme that a named proxy tells of makes HSTS; that of anyone else does not', async () => {
  const hsts = async (config: object, headers: Record<string, string>) => {
    await using server = await startTestServer({ config: { ...config } });
    return (await server.as('anyone').send(healthz, { headers })).headers.get('strict-transport-security');
  };
  const https = { 'x-forwarded-proto': 'https' };
  expect(await hsts({}, https)).toBe(null);
  expect(await hsts({ behind_proxy: ['10.0.0.1'] }, https)).toBe(null);
  expect(await hsts({ behind_proxy: ['127.0.0.1'] }, https)).toBe('max-age=31536000');
  expect(await hsts({ behind_proxy: ['127.0.0.1'] }, { 'x-forwarded-proto': 'http' })).toBe(null);
});
