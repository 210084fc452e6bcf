import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { integer, objectId, sequence, time } from './der.ts';
import { selfSignedCertificate } from './tls-certificate.ts';

const folder = mkdtempSync(join(tmpdir(), 'aegis-certificate-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const { privateKey: key } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const made = (serial: Uint8Array, names: readonly string[]) =>
  selfSignedCertificate({
    key,
    commonName: 'aegis prüfung',
    names,
    notBeforeMs: Date.parse('2026-01-02T03:04:05Z'),
    notAfterMs: Date.parse('2056-01-02T03:04:05Z'),
    serial,
  });
const NAMES = ['localhost', 'aegis.example.net', '127.0.0.1', '10.1.2.3', '::1', 'fe80::1:2', '2001:db8:1:2:3:4:5:6'];

test('openssl reads what was meant, and verifies it as its own anchor', () => {
  const file = join(folder, 'cert.pem');
  writeFileSync(file, made(Buffer.alloc(20, 0xff), NAMES));
  const text = execFileSync('openssl', ['x509', '-in', file, '-noout', '-text'], { encoding: 'utf8' });
  for (const said of [
    /Version: 3 \(0x2\)/,
    /Serial Number:\s+7f:ff:ff/,
    /Signature Algorithm: ecdsa-with-SHA256/,
    /Not Before: Jan\s+2 03:04:05 2026 GMT/,
    /Not After : Jan\s+2 03:04:05 2056 GMT/,
    /NIST CURVE: P-256/,
    /Basic Constraints: critical\s+CA:FALSE/,
    /Key Usage: critical\s+Digital Signature\n/,
    /Extended Key Usage: ?\s+TLS Web Server Authentication\n/,
    /DNS:localhost, DNS:aegis\.example\.net, IP Address:127\.0\.0\.1, IP Address:10\.1\.2\.3, IP Address:0:0:0:0:0:0:0:1, IP Address:FE80:0:0:0:0:0:1:2, IP Address:2001:DB8:1:2:3:4:5:6\n/,
  ])
    expect(text).toMatch(said);
  const verified = execFileSync(
    'openssl',
    [
      'verify',
      '-x509_strict',
      '-check_ss_sig',
      '-purpose',
      'sslserver',
      '-attime',
      String(Date.UTC(2027) / 1000),
      '-CAfile',
      file,
      file,
    ],
    { encoding: 'utf8' },
  );
  expect(verified).toBe(`${file}: OK\n`);
});

test('every serial number gives a certificate that its own key has signed', () => {
  for (let first = 0; first < 256; first++) {
    const certificate = new X509Certificate(made(Buffer.concat([Buffer.from([first]), Buffer.alloc(19)]), []));
    expect(certificate.verify(certificate.publicKey)).toBe(true);
    expect(certificate.checkPrivateKey(key)).toBe(true);
    expect(BigInt(`0x${certificate.serialNumber}`)).toBeGreaterThan(0n);
  }
});

test.each([
  ['a small number', integer(Buffer.from([0, 0, 5])), '020105'],
  ['a number whose highest bit is set', integer(Buffer.from([0x80])), '02020080'],
  ['zero', integer(Buffer.from([0, 0])), '020100'],
  ['an object id with large arcs', objectId('1.2.840.113549.1.1.11'), '06092a864886f70d01010b'],
  ['the last second of two-digit years', time(Date.UTC(2049, 11, 31, 23, 59, 59)), '170d3439313233313233353935395a'],
  ['the first of four-digit years', time(Date.UTC(2050, 0, 1)), '180f32303530303130313030303030305a'],
  ['a length of one byte', sequence(Buffer.alloc(127)).subarray(0, 3), '307f00'],
  ['a length of two', sequence(Buffer.alloc(128)).subarray(0, 4), '30818000'],
  ['a length of three', sequence(Buffer.alloc(300)).subarray(0, 5), '3082012c00'],
])('DER of %s', (_, bytes, hex) => {
  expect(bytes.toString('hex')).toBe(hex);
});
