import { closeSync, openSync, readSync } from 'node:fs';
import type { Credentials } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';

/** Credentials of a bucket on their way to the server: from a file or the environment, never from an argument, and never repeated in a message. */

const MAX_BYTES = 64 * 1024;
const refused = (from: string, what: string): AegisError =>
  new AegisError(
    'cli.usage',
    `${from} ${what}. Write [default], aws_access_key_id = … and aws_secret_access_key = …, or the same as JSON.`,
  );

export interface CredentialFlags {
  'credentials-file'?: string | undefined;
  'credentials-profile'?: string | undefined;
  'credentials-from-env'?: boolean | undefined;
}

/** Undefined where no flag names any. @throws AegisError cli.usage */
export const credentialsOf = (
  flags: CredentialFlags,
  env: Readonly<Record<string, string | undefined>>,
): Credentials | undefined => {
  const file = flags['credentials-file'];
  if (file !== undefined && flags['credentials-from-env'])
    throw new AegisError('cli.usage', 'Give --credentials-file or --credentials-from-env, not both.');
  if (file !== undefined) return fromText(readBounded(file), file, flags['credentials-profile'] ?? 'default');
  if (!flags['credentials-from-env']) return undefined;
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN } = env;
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY)
    throw new AegisError('cli.usage', 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set here: set them.');
  return made(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN);
};

const made = (access_key_id: string, secret_access_key: string, session_token: string | undefined): Credentials => ({
  access_key_id,
  secret_access_key,
  ...(session_token ? { session_token } : {}),
});

const readBounded = (path: string): string => {
  const buffer = Buffer.alloc(MAX_BYTES + 1);
  let size = 0;
  try {
    const fd = path === '-' ? 0 : openSync(path, 'r');
    try {
      for (;;) {
        const read = readSync(fd, buffer, size, buffer.length - size, null);
        size += read;
        if (read === 0 || size === buffer.length) break;
      }
    } finally {
      if (path !== '-') closeSync(fd);
    }
  } catch (error) {
    throw new AegisError(
      'cli.usage',
      `The credentials file ${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown reason'}). Name one that you may read.`,
    );
  }
  if (size > MAX_BYTES) throw refused(path, 'is too large for credentials');
  return buffer.toString('utf8', 0, size);
};

const fromText = (text: string, file: string, profile: string): Credentials => {
  const fields = text.trimStart().startsWith('{') ? jsonFields(text, file) : iniFields(text, file, profile);
  const id = fields.get('accesskeyid');
  const secret = fields.get('secretaccesskey');
  if (!id || !secret) throw refused(file, 'has no access key id and secret access key');
  return made(id, secret, fields.get('sessiontoken'));
};

/** `aws_access_key_id`, `AccessKeyId` and `access_key_id` are one name. */
const fieldName = (name: string): string => name.toLowerCase().replace(/^aws_/, '').replaceAll('_', '');

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** Also as `aws sts` and `aws iam create-access-key` print them. */
const jsonFields = (text: string, file: string): Map<string, string> => {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The parser's message would quote the text.
    throw refused(file, 'is not valid JSON');
  }
  const outer = isRecord(value) ? value : {};
  const inner = [outer.Credentials, outer.AccessKey].find(isRecord) ?? outer;
  return new Map(
    Object.entries(inner).flatMap(([name, one]) => (typeof one === 'string' ? [[fieldName(name), one] as const] : [])),
  );
};

const iniFields = (text: string, file: string, profile: string): Map<string, string> => {
  const fields = new Map<string, string>();
  let section: string | null = null;
  let found = false;
  for (const line of text.split('\n').map((one) => one.trim())) {
    const head = /^\[\s*(?:profile\s+)?([^\]]+?)\s*\]$/.exec(line);
    if (head) section = head[1] ?? null;
    if (section !== null && section !== profile) continue;
    found = true;
    const at = line.indexOf('=');
    if (at > 0 && !/^[#;]/.test(line)) fields.set(fieldName(line.slice(0, at).trim()), line.slice(at + 1).trim());
  }
  if (!found) throw refused(file, `has no section [${profile}]`);
  return fields;
};
