import type { MinisignSecretKey } from '@aegis/protocol/access/minisign-secret-key';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { readPassword } from '../ui/ask-password.ts';
import type { Output } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { type KeyFiles, keyFilesOf, writeKeyFiles } from './access-key-files.ts';

/** A new key pair in files of minisign's form. */

export const newKeyFlags = {
  out: Flags.string({ default: '.', helpValue: 'DIR', summary: 'Folder for both files' }),
  'password-file': Flags.string({
    helpValue: 'FILE',
    summary: "Read the password from a file's first line (-: standard input)",
  }),
  'no-password': Flags.boolean({
    summary: 'Whoever has the file can sign; for machines that hold it in a safe place',
    exclusive: ['password-file'],
  }),
};

export interface NewKey {
  files: KeyFiles;
  key: MinisignSecretKey;
  publicText: string;
  isEncrypted: boolean;
}

/** @throws AegisError cli.usage, access.bad_password */
export const makeKey = async (
  output: Output,
  name: string,
  flags: { out: string; 'password-file'?: string | undefined; 'no-password': boolean },
): Promise<NewKey> => {
  const files = keyFilesOf(flags.out, name);
  const password = flags['no-password'] ? null : await newPassword(output, flags['password-file'], name);
  const { formatMinisignSecretKey, generateMinisignKey } = await import('@aegis/protocol/access/minisign-secret-key');
  const { formatMinisignPublicKey } = await import('@aegis/protocol/access/minisign');
  const key = generateMinisignKey();
  const publicText = formatMinisignPublicKey({ minisignId: key.minisignId, raw: key.publicRaw });
  writeKeyFiles(files, await formatMinisignSecretKey(key, password), publicText);
  return { files, key, publicText, isEncrypted: password !== null };
};

/** On the terminal it is asked for twice, because nobody sees what was typed. */
const newPassword = async (output: Output, file: string | undefined, name: string): Promise<string> => {
  const password = await readPassword(output, file, `New password of ${plainText(name)}:`);
  if (password === '')
    throw new AegisError('access.bad_password', 'The password is empty. --no-password makes a key without one.');
  if (file === undefined && (await readPassword(output, undefined, 'The same again:')) !== password)
    throw new AegisError('access.bad_password', 'The two passwords differ; nothing was written. Try again.');
  return password;
};
