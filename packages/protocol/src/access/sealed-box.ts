import { randomBytes } from 'node:crypto';
import nacl from 'tweetnacl';
import { AegisError } from '../errors.ts';

/** Bytes that one node alone can read: NaCl's box (X25519, XSalsa20, Poly1305) from a key pair made for this one box and thrown away, so
 *  whoever carries or stores it cannot open it. It says nothing of who sealed it: what carries it must.
 *  Text: base64(ephemeral public key 32 | nonce 24 | box). */

const { publicKeyLength: KEY, nonceLength: NONCE, overheadLength: OVERHEAD } = nacl.box;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** @throws AegisError access.bad_key for what is no X25519 public key, or one of the few that make every shared secret known */
export const seal = (bytes: Uint8Array, recipientPublicRaw: Uint8Array): string => {
  if (recipientPublicRaw.length !== KEY)
    throw new AegisError('access.bad_key', `A sealing key has ${KEY} bytes, not ${recipientPublicRaw.length}.`);
  const ephemeral = nacl.box.keyPair.fromSecretKey(randomBytes(nacl.box.secretKeyLength));
  const nonce = randomBytes(NONCE);
  try {
    if (nacl.scalarMult(ephemeral.secretKey, recipientPublicRaw).every((byte) => byte === 0))
      throw new AegisError(
        'access.bad_key',
        'This sealing key would let anyone open what is sealed to it. Enrol the node again, so that it makes another.',
      );
    const box = nacl.box(bytes, nonce, recipientPublicRaw, ephemeral.secretKey);
    return Buffer.concat([ephemeral.publicKey, nonce, box]).toString('base64');
  } finally {
    ephemeral.secretKey.fill(0);
  }
};

/** @throws AegisError access.bad_signature when it was not sealed to this key, or was altered */
export const openSealed = (text: string, secretRaw: Uint8Array): Buffer => {
  const sealed = BASE64.test(text) ? Buffer.from(text, 'base64') : Buffer.alloc(0);
  const opened =
    sealed.length < KEY + NONCE + OVERHEAD
      ? null
      : nacl.box.open(
          sealed.subarray(KEY + NONCE),
          sealed.subarray(KEY, KEY + NONCE),
          sealed.subarray(0, KEY),
          secretRaw,
        );
  if (opened === null)
    throw new AegisError(
      'access.bad_signature',
      "What was sealed for this node cannot be opened with its key: it was altered, or sealed to another node's. Ask for it again.",
    );
  return Buffer.from(opened.buffer, opened.byteOffset, opened.length);
};
