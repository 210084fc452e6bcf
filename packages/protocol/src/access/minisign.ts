import { createHash, type KeyObject, sign, verify } from 'node:crypto';
import { AegisError } from '../errors.ts';
import { publicKeyFromRaw } from './keys.ts';

/** minisign's public keys and signatures (https://jedisct1.github.io/minisign/), so that the stock program and ours accept each
 *  other's. Prehashed signatures only ('ED': Ed25519 over BLAKE2b-512). Read strictly: what the stock program would not write is
 *  refused, with the reason. Its secret keys are in minisign-secret-key.ts. */

/** The id as minisign prints it: 16 upper-case hexadecimal digits. A name that its maker chose, no proof of anything. */
export type MinisignId = string;

export interface MinisignPublicKey {
  minisignId: MinisignId;
  /** 32 bytes. */
  raw: Buffer;
  /** The untrusted comment; empty for a key that came without one. */
  comment: string;
}

export interface MinisignSignature {
  minisignId: MinisignId;
  /** 64 bytes over BLAKE2b-512 of the signed bytes. */
  signature: Buffer;
  /** 64 bytes over signature and trusted comment. */
  globalSignature: Buffer;
  trustedComment: string;
  untrustedComment: string;
}

export const UNTRUSTED = 'untrusted comment: ';
const TRUSTED = 'trusted comment: ';
const SIGNATURE_COMMENT = 'signature from minisign secret key';
/** Bytes of a line, as in minisign.h, prefix and final zero included. */
const MAX_COMMENT_BYTES = 1024;
const MAX_TRUSTED_BYTES = 8192;
const MAX_TEXT_CHARS = 16_384;
export const KEY_ALGORITHM = 'Ed';
const PREHASHED = 'ED';

/** Keys under which everything or much verifies, whatever was signed: the points of small order, in each encoding that a verifier
 *  might take (the sign bit aside). libsodium, and so the stock program, refuses the same; not each OpenSSL does. */
const SMALL_ORDER = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
];

export const badKey = (why: string, cause?: unknown): AegisError => new AegisError('access.bad_key', why, { cause });
const badSignature = (why: string): AegisError => new AegisError('artifacts.bad_signature', why);

/** The 8 bytes are a little-endian number, which minisign prints. */
export const minisignIdOf = (bytes: Uint8Array): MinisignId =>
  Buffer.from(bytes).reverse().toString('hex').toUpperCase();
/** @throws AegisError access.bad_key */
export const minisignIdBytes = (id: MinisignId): Buffer => {
  if (!/^[0-9A-F]{16}$/.test(id))
    throw badKey(`'${id.slice(0, 40)}' is no key id of minisign, which has 16 upper-case hexadecimal digits.`);
  return Buffer.from(id, 'hex').reverse();
};

/** Base64 in its one canonical spelling and of just that many bytes, or null. */
export const exactBase64 = (text: string, bytes: number): Buffer | null => {
  const decoded = Buffer.from(text, 'base64');
  return decoded.length === bytes && decoded.toString('base64') === text ? decoded : null;
};

/** The lines of a text file of minisign's, the end of the last one aside; null when it is far too long to be one. Line ends may be
 *  those of Windows, as for the stock program. */
export const linesOf = (text: string): string[] | null =>
  text.length > MAX_TEXT_CHARS ? null : text.replace(/\r?\n$/, '').split(/\r?\n/);

const hasControls = (text: string): boolean => /[\p{Cc}]/u.test(text.replaceAll('\t', ' ')) || !text.isWellFormed();

/** What follows the prefix, or null when the line is not such a comment, too long, or would not print. */
export const commentOf = (line: string | undefined, prefix = UNTRUSTED, maxBytes = MAX_COMMENT_BYTES): string | null =>
  line?.startsWith(prefix) && Buffer.byteLength(line) < maxBytes - 1 && !hasControls(line)
    ? line.slice(prefix.length)
    : null;

/** A comment that may stand in a file that we write. @throws AegisError access.bad_key */
export const writableComment = (line: string, prefix = UNTRUSTED, maxBytes = MAX_COMMENT_BYTES): string => {
  if (commentOf(line, prefix, maxBytes) === null)
    throw badKey(
      'A comment of a key or signature is one line of printable text: shorten it, or leave special characters out.',
    );
  return line;
};

/** A minisign.pub file, or its second line alone as `minisign -P` takes it.
 *  @throws AegisError access.bad_key */
export const parseMinisignPublicKey = (text: string): MinisignPublicKey => {
  const lines = linesOf(text) ?? [];
  const [first, second] = lines;
  const alone = lines.length === 1;
  const comment = alone ? '' : commentOf(first);
  const encoded = (alone ? first : second) ?? '';
  if (lines.length > 2 || comment === null)
    throw badKey(
      `A minisign public key is a file of two lines, the first of which begins with "${UNTRUSTED}". Give the .pub file as minisign wrote it.`,
    );
  if (encoded.length > 100)
    throw badKey('That is not a public key: it looks like a secret key or a signature. Give the .pub file.');
  const bytes = exactBase64(encoded, 42);
  if (!bytes) throw badKey('The key is not the base64 of 42 bytes, as a minisign public key is. Give the .pub file.');
  if (bytes.toString('latin1', 0, 2) !== KEY_ALGORITHM)
    throw badKey(
      'The key is not an Ed25519 key of minisign. Make one with "aegis access keys create" or "minisign -G".',
    );
  return { minisignId: minisignIdOf(bytes.subarray(2, 10)), raw: checkedPublicKey(bytes.subarray(10)), comment };
};

/** Whether a public key is one under which anybody can sign. */
export const isSmallOrder = (raw: Uint8Array): boolean => {
  const unsigned = Buffer.from(raw);
  unsigned[31] = (unsigned[31] ?? 0) & 0x7f;
  return SMALL_ORDER.includes(unsigned.toString('hex'));
};

/** Refuses what is no public key, or one that would let anybody sign.
 *  @throws AegisError access.bad_key */
export const checkedPublicKey = (raw: Buffer): Buffer => {
  if (raw.length !== 32) throw badKey(`An Ed25519 public key has 32 bytes, not ${raw.length}.`);
  if (isSmallOrder(raw))
    throw badKey('That key is a point of small order, under which anybody can sign. Find out where it comes from.');
  return raw;
};

/** A public key in any form that people have one in: as above, or the base64 of its 32 bytes alone, as Vault's transit engine shows it.
 *  @throws AegisError access.bad_key */
export const parsePublicKey = (text: string): { raw: Buffer; minisignId: MinisignId | null; comment: string } => {
  const bare = exactBase64(text.trim(), 32);
  return bare ? { raw: checkedPublicKey(bare), minisignId: null, comment: '' } : parseMinisignPublicKey(text);
};

export const formatMinisignPublicKey = (key: { minisignId: MinisignId; raw: Uint8Array; comment?: string }): string => {
  const bytes = Buffer.concat([
    Buffer.from(KEY_ALGORITHM),
    minisignIdBytes(key.minisignId),
    checkedPublicKey(Buffer.from(key.raw)),
  ]);
  const comment = writableComment(`${UNTRUSTED}${key.comment ?? `minisign public key ${key.minisignId}`}`);
  return `${comment}\n${bytes.toString('base64')}\n`;
};

/** @throws AegisError artifacts.bad_signature */
export const parseMinisignSignature = (text: string): MinisignSignature => {
  const [first, second = '', third, fourth = '', ...more] = linesOf(text) ?? [];
  if (third === undefined || more.length > 0)
    throw badSignature(
      'A minisign signature has four lines, this text has not. Give the .minisig file as it was written.',
    );
  const untrustedComment = commentOf(first);
  if (untrustedComment === null)
    throw badSignature(`The signature's first line is not one of "${UNTRUSTED}" and printable text of at most 1 KiB.`);
  const trustedComment = commentOf(third, TRUSTED, MAX_TRUSTED_BYTES);
  if (trustedComment === null)
    throw badSignature(`The signature's third line is not one of "${TRUSTED}" and printable text of at most 8 KiB.`);
  const bytes = exactBase64(second, 74);
  if (!bytes) throw badSignature("The signature's second line is not the base64 of 74 bytes.");
  const globalSignature = exactBase64(fourth, 64);
  if (!globalSignature) throw badSignature("The signature's fourth line is not the base64 of 64 bytes.");
  const algorithm = bytes.toString('latin1', 0, 2);
  if (algorithm === KEY_ALGORITHM)
    throw badSignature(
      'The signature is of the legacy kind, which is not prehashed. Sign again without "-l", with minisign 0.10 or later.',
    );
  if (algorithm !== PREHASHED) throw badSignature('The signature is of a kind that minisign does not have.');
  return {
    minisignId: minisignIdOf(bytes.subarray(2, 10)),
    signature: bytes.subarray(10),
    globalSignature,
    trustedComment,
    untrustedComment,
  };
};

const prehash = (bytes: Uint8Array): Buffer => createHash('blake2b512').update(bytes).digest();
const withComment = (signature: Uint8Array, trustedComment: string): Buffer =>
  Buffer.concat([signature, Buffer.from(trustedComment, 'utf8')]);

/** The text of a .minisig file. @throws AegisError access.bad_key when a comment is not one line of printable text */
export const signMinisign = (
  bytes: Uint8Array,
  key: { minisignId: MinisignId; privateKey: KeyObject },
  comments: { trustedComment: string; untrustedComment?: string },
): string => {
  const untrusted = writableComment(`${UNTRUSTED}${comments.untrustedComment ?? SIGNATURE_COMMENT}`);
  const trusted = writableComment(`${TRUSTED}${comments.trustedComment}`, TRUSTED, MAX_TRUSTED_BYTES);
  const signature = sign(null, prehash(bytes), key.privateKey);
  const named = Buffer.concat([Buffer.from(PREHASHED), minisignIdBytes(key.minisignId), signature]);
  const global = sign(null, withComment(signature, comments.trustedComment), key.privateKey);
  return `${untrusted}\n${named.toString('base64')}\n${trusted}\n${global.toString('base64')}\n`;
};

/** Whether `key` made this signature over these bytes and its trusted comment. The ids have to agree too.
 *  @throws AegisError artifacts.bad_signature */
export const verifyMinisign = (
  bytes: Uint8Array,
  signatureText: string,
  key: { minisignId: MinisignId; raw: Uint8Array },
): { trustedComment: string } => {
  const signature = parseMinisignSignature(signatureText);
  if (signature.minisignId !== key.minisignId)
    throw badSignature(`The signature was made with the key ${signature.minisignId}, not with ${key.minisignId}.`);
  return verifyParsedMinisign(prehash(bytes), signature, key.raw);
};

/** As `verifyMinisign`, for several keys over the same bytes. @param hash BLAKE2b-512 of them */
export const verifyParsedMinisign = (
  hash: Uint8Array,
  { signature, globalSignature, trustedComment }: MinisignSignature,
  raw: Uint8Array,
): { trustedComment: string } => {
  const publicKey = publicKeyFromRaw(raw);
  if (isSmallOrder(raw) || !verify(null, hash, publicKey, signature))
    throw badSignature('The signature does not fit these bytes: they were changed, or it was made for others.');
  if (!verify(null, withComment(signature, trustedComment), publicKey, globalSignature))
    throw badSignature("The signature's trusted comment was changed after it was signed.");
  return { trustedComment };
};

export const minisignHash = prehash;
