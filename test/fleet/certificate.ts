import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A certificate for tests, made by openssl: its own authority, good for two days. */
export interface Certificate {
  readonly keyFile: string;
  readonly certFile: string;
  readonly key: string;
  readonly cert: string;
}

const MADE = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];

/** In files of this name. @param address that it is for; null: it names none */
export const makeCertificate = (folder: string, name = 'tls', address: string | null = '127.0.0.1'): Certificate => {
  const [keyFile, certFile] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)];
  const named = ['-subj', `/CN=${name}`, ...(address === null ? [] : ['-addext', `subjectAltName=IP:${address}`])];
  execFileSync('openssl', [...MADE, ...named, '-keyout', keyFile, '-out', certFile], { stdio: 'ignore' });
  return { keyFile, certFile, key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certFile, 'utf8') };
};
