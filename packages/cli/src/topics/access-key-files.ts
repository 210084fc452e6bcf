import { lstatSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { reasonOf, writeNewFile } from '../new-file.ts';

/** A pair of key files: NAME.key for its owner alone, NAME.pub for everybody. Never over what is there. */

export interface KeyFiles {
  keyFile: string;
  publicFile: string;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const MAX_PUBLIC_BYTES = 16 * 1024;

/** @throws AegisError cli.usage, also when one of them is there already: before anybody is asked for a password */
export const keyFilesOf = (folder: string, name: string): KeyFiles => {
  if (!NAME.test(name))
    throw new AegisError(
      'cli.usage',
      `'${name.slice(0, 80)}' cannot name a key: use 1 to 64 of A-Z a-z 0-9 . _ -, and --out for the folder.`,
    );
  const files = { keyFile: join(folder, `${name}.key`), publicFile: join(folder, `${name}.pub`) };
  for (const path of Object.values(files)) if (lstatSync(path, { throwIfNoEntry: false })) throw taken(path);
  return files;
};

const taken = (path: string): AegisError =>
  new AegisError(
    'cli.usage',
    `${path} is there already, and a key is never written over: choose another name or folder.`,
  );

/** Both, or neither. @throws AegisError cli.usage */
export const writeKeyFiles = (files: KeyFiles, secretText: string, publicText: string): void => {
  writeNew(files.keyFile, secretText, 0o600);
  try {
    writeNew(files.publicFile, publicText, 0o644);
  } catch (error) {
    rmSync(files.keyFile, { force: true });
    throw error;
  }
};

const writeNew = (path: string, text: string, mode: number): void =>
  writeNewFile(path, text, { mode, taken, elsewhere: 'choose another folder with --out' });

/** The text of a public key file; `-` is standard input. @throws AegisError cli.usage */
export const readPublicKeyText = (path: string): string => {
  try {
    const bytes = readFileSync(path === '-' ? 0 : path);
    if (bytes.length <= MAX_PUBLIC_BYTES) return bytes.toString('utf8');
  } catch (error) {
    throw new AegisError('cli.usage', `${path} cannot be read (${reasonOf(error)}). Name the .pub file of a key.`);
  }
  throw new AegisError('cli.usage', `${path} is far too large for a public key. Name the .pub file of a key.`);
};

/** `release` of `keys/release.pub`; null for standard input. */
export const nameOfFile = (path: string): string | null => (path === '-' ? null : basename(path).replace(/\.pub$/, ''));
