import { createCipheriv, createDecipheriv, generateKeyPairSync } from 'node:crypto';
import { publicKeyFromRaw, rawPublicKey } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import { checkMac, damaged, FILE_KEY_BYTES, fromBase64, type Header, hkdf, type Stanza, toBase64 } from './header.ts';
import { type Identity, type Recipient, sharedSecret } from './keys.ts';

/** The X25519 recipient stanza (c2sp.org/age): the file key, wrapped for one recipient. */

const TYPE = 'X25519';
const INFO = 'age-encryption.org/v1/X25519';
const CIPHER = 'chacha20-poly1305';
const TAG_BYTES = 16;
const NONCE = Buffer.alloc(12); // of zeros: each wrap key is used once
const SHARE_BYTES = 32;

/** @throws AegisError backups.bad_recipient */
export const wrapFileKey = (fileKey: Uint8Array, recipient: Recipient): Stanza => {
  const ephemeral = generateKeyPairSync('x25519').privateKey;
  const share = rawPublicKey(ephemeral);
  const secret = sharedSecret(ephemeral, recipient.publicKey);
  if (!secret) throw new AegisError('backups.bad_recipient', `'${recipient.text}' is no real key.`);
  const key = hkdf(secret, Buffer.concat([share, recipient.publicRaw]), INFO);
  const cipher = createCipheriv(CIPHER, key, NONCE, { authTagLength: TAG_BYTES });
  const body = Buffer.concat([cipher.update(fileKey), cipher.final(), cipher.getAuthTag()]);
  return { args: [TYPE, toBase64(share)], body };
};

/** The file key of a header, its MAC checked.
 *  @throws AegisError backups.wrong_identity when none of the identities is among its recipients, backups.bad_archive */
export const openHeader = (header: Header, identities: readonly Identity[]): Buffer => {
  if (header.stanzas.length > 1 && header.stanzas.some(({ args }) => args[0] === 'scrypt'))
    throw badStanza('a passphrase stands beside other recipients');
  const ours = header.stanzas.filter(({ args }) => args[0] === TYPE).map(checked);
  for (const identity of identities)
    for (const stanza of ours) {
      const fileKey = unwrap(stanza, identity);
      if (fileKey) {
        checkMac(header, fileKey);
        return fileKey;
      }
    }
  throw new AegisError(
    'backups.wrong_identity',
    ours.length === 0
      ? 'This is not encrypted to any age identity of the X25519 kind: decrypt it with `age` itself.'
      : identities.length === 0
        ? 'This is encrypted: give the identity that opens it (--identity FILE).'
        : `${identities.length === 1 ? 'The identity given does not open this' : 'None of the identities given opens this'}: it is encrypted to ${ours.length === 1 ? 'another recipient' : 'other recipients'}.`,
  );
};

interface Wrapped {
  share: Buffer;
  body: Buffer;
}

const checked = ({ args, body }: Stanza): Wrapped => {
  const share = args.length === 2 ? fromBase64(args[1] ?? '') : null;
  if (share?.length !== SHARE_BYTES) throw badStanza('a recipient stanza is malformed');
  // The length first: an attacker could else make a body that several keys open (partitioning oracle).
  if (body.length !== FILE_KEY_BYTES + TAG_BYTES) throw badStanza('a wrapped key has the wrong length');
  return { share, body };
};

const unwrap = ({ share, body }: Wrapped, identity: Identity): Buffer | null => {
  const secret = sharedSecret(identity.privateKey, publicKeyFromRaw(share, 'x25519'));
  if (!secret) throw badStanza('the share of a recipient stanza is no real key');
  const key = hkdf(secret, Buffer.concat([share, identity.publicRaw]), INFO);
  const decipher = createDecipheriv(CIPHER, key, NONCE, { authTagLength: TAG_BYTES });
  decipher.setAuthTag(body.subarray(FILE_KEY_BYTES));
  const fileKey = decipher.update(body.subarray(0, FILE_KEY_BYTES));
  try {
    decipher.final();
    return fileKey;
  } catch {
    return null; // made for another recipient
  }
};

const badStanza = (fault: string) => damaged('age_stanza', `This cannot be decrypted: ${fault}.`);
