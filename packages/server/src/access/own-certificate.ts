import { createPrivateKey, generateKeyPairSync, type KeyObject, randomBytes, X509Certificate } from 'node:crypto';
import { renameSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { selfSignedCertificate } from '../platform/http/tls-certificate.ts';
import { createPrivateFile, privateDirectory, readPrivateFile } from './private-files.ts';

/** The self-signed certificate of --tls-self-signed, in the data directory: `tls/key.pem`, `tls/cert.pem`, and in `tls/pin` the fingerprint that
 *  join tokens carry while it is served. It is renewed under the same key, because nodes hold on to the key once they have met it. */

const LIFETIME_MS = 10 * 365 * 86_400_000;
const RENEW_BEFORE_MS = 365 * 86_400_000;
/** Clocks of nodes may be behind. */
const BACKDATED_MS = 2 * 86_400_000;

const folderOf = (dataDir: string): string => join(dataDir, 'tls');
const pinOf = (dataDir: string): string => join(folderOf(dataDir), 'pin');

/** Hex SHA-256 of the first certificate's DER. */
export const fingerprintOf = (pem: string | Buffer): string =>
  new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase();

export const ownCertificate = (parts: { dataDir: string; hosts: readonly string[]; now: () => number }) => {
  const { dataDir, now } = parts;
  const folder = folderOf(dataDir);
  const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') };
  return {
    files,
    /** Makes what is not there and replaces what ends within a year. @throws AegisError config.invalid */
    renewWhenDue: (): void => {
      privateDirectory(folder);
      const held = readPrivateFile(files.cert);
      if (held !== null && readPrivateFile(files.key) !== null && endOf(held, files.cert) - now() > RENEW_BEFORE_MS)
        return;
      const pem = selfSignedCertificate({
        key: privateKey(files.key),
        commonName: `aegis ${hostname()}`,
        names: namesFor(parts.hosts),
        notBeforeMs: now() - BACKDATED_MS,
        notAfterMs: now() + LIFETIME_MS,
        serial: randomBytes(16),
      });
      replace(files.cert, pem);
    },
  };
};

/** Says which certificate join tokens name from now on, or that they name none. */
export const pinCertificate = (dataDir: string, fingerprint: string | null): void => {
  if (fingerprint === null) rmSync(pinOf(dataDir), { force: true });
  else if (pinnedCertificate(dataDir) !== fingerprint) replace(pinOf(dataDir), `${fingerprint}\n`);
};

export const pinnedCertificate = (dataDir: string): string | undefined =>
  /^[0-9a-f]{64}$/.exec(readPrivateFile(pinOf(dataDir))?.trim() ?? '')?.[0];

const privateKey = (path: string): KeyObject => {
  const fresh = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' });
  createPrivateFile(path, fresh.toString()); // one that is there stays
  try {
    const key = createPrivateKey(readPrivateFile(path) ?? '');
    if (key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return key;
  } catch (cause) {
    throw badKey(path, cause);
  }
  throw badKey(path);
};
const badKey = (path: string, cause?: unknown): AegisError =>
  new AegisError(
    'config.invalid',
    `${path} is not the P-256 key that --tls-self-signed made: restore it, or remove it and let nodes join anew.`,
    { cause },
  );

const endOf = (pem: string, path: string): number => {
  try {
    return new X509Certificate(pem).validToDate.getTime();
  } catch (cause) {
    throw new AegisError(
      'config.invalid',
      `${path} holds no certificate: restore it, or remove it; a new one is made for the same key.`,
      { cause },
    );
  }
};

const replace = (path: string, text: string): void => {
  const next = `${path}.${randomBytes(8).toString('hex')}.next`; // several servers may share the data directory
  createPrivateFile(next, text);
  renameSync(next, path);
};

/** What a client may have called this server by; nodes and pinned command lines do not look at it. */
const namesFor = (hosts: readonly string[]): string[] => {
  const named = hosts.filter((host) => host !== '0.0.0.0' && host !== '::');
  const own = hostname();
  return [
    ...new Set([...named, ...(/^[A-Za-z0-9.-]{1,253}$/.test(own) ? [own] : []), 'localhost', '127.0.0.1', '::1']),
  ];
};
