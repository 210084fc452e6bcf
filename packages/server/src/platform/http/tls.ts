import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { AegisError } from '@aegis/protocol/errors';
import type { Log } from '../log.ts';

/** The server's certificate: read from files, checked as a pair, and read again when one of them is another. What is served is always a
 *  whole good pair; a bad new one is told in the log and the old one stays. */
export interface TlsFiles {
  cert: string;
  key: string;
  /** Authorities of which every client has to show a certificate. */
  clientCa: string | null;
}
export interface TlsMaterial {
  cert: Buffer;
  key: Buffer;
  ca?: Buffer;
}
export interface Tls {
  current(): TlsMaterial;
  readonly asksClients: boolean;
  /** Calls `take` with each new pair from now on. */
  follow(take: (material: TlsMaterial) => void): void;
  /** Looks whether the files are others than before. */
  check(): Promise<void>;
}

/** TLS 1.3, and of 1.2 only what has forward secrecy and authenticates what it encrypts: no CBC, no RSA key exchange, no finite-field
 *  Diffie-Hellman. Among these the client chooses, which knows whether it has AES in hardware. */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** For a server's start and for `setSecureContext`, which forgets what it is not told again. */
export const secureOptions = (material: TlsMaterial) => ({
  ...material,
  minVersion: 'TLSv1.2' as const,
  ciphers: CIPHERS,
  honorCipherOrder: false,
});

const WARN_BEFORE_MS = 14 * 86_400_000;

/** @throws AegisError config.invalid when the files hold no good pair */
export const tlsFromFiles = (files: TlsFiles, now: () => number, log: Log): Tls => {
  let seen = signatureOf(files);
  let material = read(files);
  const followers: ((material: TlsMaterial) => void)[] = [];
  warnOfExpiry(material, files, now(), log);
  return {
    current: () => material,
    asksClients: files.clientCa !== null,
    follow: (take) => void followers.push(take),
    check: async () => {
      const signature = signatureOf(files); // before the reading: what changes meanwhile is seen the next time
      if (signature === seen) return;
      seen = signature;
      let fresh: TlsMaterial;
      try {
        fresh = read(files);
      } catch (error) {
        if (!(error instanceof AegisError)) throw error;
        log.error(
          { tls_cert: files.cert, tls_key: files.key, code: error.code },
          `${error.message} The certificate that was good goes on to be served; the files are read again when they change.`,
        );
        return;
      }
      if (same(fresh, material)) return;
      material = fresh;
      for (const take of followers) take(fresh);
      const { subject, validTo, fingerprint256 } = new X509Certificate(fresh.cert);
      log.info({ subject, valid_to: validTo, fingerprint: fingerprint256 }, 'a new TLS certificate is served');
      warnOfExpiry(fresh, files, now(), log);
    },
  };
};

/** Of what the paths lead to, symbolic links followed: a file that is renamed into place and a folder whose link is swapped both show.
 *  A watch on the path would go on looking at what was there before. */
const signatureOf = ({ cert, key, clientCa }: TlsFiles): string =>
  [cert, key, ...(clientCa === null ? [] : [clientCa])]
    .map((path) => {
      try {
        const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
        return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
      } catch (error) {
        return error instanceof Error && 'code' in error ? String(error.code) : 'none'; // the reading says which file it is
      }
    })
    .join(' ');

const read = ({ cert: certFile, key: keyFile, clientCa: caFile }: TlsFiles): TlsMaterial => {
  const cert = bytesOf('tls_cert', certFile);
  const key = bytesOf('tls_key', keyFile);
  const ca = caFile === null ? undefined : bytesOf('tls_client_ca', caFile);
  const leaf = orRefuse(() => new X509Certificate(cert), `tls_cert: ${certFile} holds no certificate in PEM.`);
  const privateKey = orRefuse(
    () => createPrivateKey(key),
    `tls_key: ${keyFile} holds no private key in PEM, or one under a password, which a server cannot enter.`,
  );
  if (!leaf.checkPrivateKey(privateKey))
    throw invalid(
      `tls_key: the key in ${keyFile} is not the one of the certificate in ${certFile}; the server's own certificate comes first in its file.`,
    );
  if (ca) orRefuse(() => new X509Certificate(ca), `tls_client_ca: ${caFile} holds no certificate in PEM.`);
  const material = { cert, key, ...(ca ? { ca } : {}) };
  orRefuse(() => createSecureContext(secureOptions(material)), `tls_cert: ${certFile} cannot be served.`);
  return material;
};

const bytesOf = (key: string, path: string): Buffer =>
  orRefuse(() => readFileSync(path), `${key}: ${path} cannot be read by the user that runs the server.`);

const orRefuse = <T>(act: () => T, sentence: string): T => {
  try {
    return act();
  } catch (cause) {
    throw invalid(sentence, cause);
  }
};
const invalid = (sentence: string, cause?: unknown): AegisError =>
  new AegisError('config.invalid', sentence, { cause });

const same = (one: TlsMaterial, other: TlsMaterial): boolean =>
  one.cert.equals(other.cert) && one.key.equals(other.key) && (one.ca ?? NONE).equals(other.ca ?? NONE);
const NONE = Buffer.alloc(0);

const warnOfExpiry = ({ cert }: TlsMaterial, files: TlsFiles, now: number, log: Log): void => {
  const { validTo, validToDate } = new X509Certificate(cert);
  const facts = { tls_cert: files.cert, valid_to: validTo };
  if (validToDate.getTime() <= now)
    log.error(
      facts,
      'the TLS certificate has expired: clients refuse it. Put a new one in its place, it is read by itself',
    );
  else if (validToDate.getTime() - now < WARN_BEFORE_MS)
    log.warn(facts, 'the TLS certificate expires soon. Put a new one in its place, it is read by itself');
};
