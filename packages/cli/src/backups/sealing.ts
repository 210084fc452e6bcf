import { parseIdentities } from '@aegis/archive/backup/age/keys';
import { seal } from '@aegis/protocol/access/sealed-box';
import { AegisError } from '@aegis/protocol/errors';
import { readIdentityText } from './identities.ts';

/** Identities on their way to a node that restores: sealed to its key, so that neither server nor journal can read them. */

const MAX_SEALED_CHARS = 64 * 1024;

/** Only the identities themselves travel, without the comments of their files. @throws AegisError backups.bad_identity */
export const sealedIdentities = (files: readonly string[], sealingKey: Uint8Array): string => {
  const texts = files.map(readIdentityText);
  for (const text of texts) parseIdentities(text);
  const lines = texts
    .join('\n')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  const sealed = seal(Buffer.from(`${lines.join('\n')}\n`, 'utf8'), sealingKey);
  if (sealed.length <= MAX_SEALED_CHARS) return sealed;
  throw new AegisError(
    'backups.bad_identity',
    'These are more identities than a restore takes: give those that are needed.',
  );
};
