import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject, sign, verify } from 'node:crypto';
import { AegisError } from '../errors.ts';
import { lengthPrefixed } from '../nodes/enrolment.ts';
import { decodeMessage } from './decode-message.ts';
import type { MessageType, SecureMessage } from './messages.ts';

/** One direction's messages, sealed with ChaCha20-Poly1305 (RFC 8439): `seq` rises by one, never starts again and is the nonce, so none
 *  repeats under a key; the clear fields are associated data. `epoch` says which key: each is made from the one before, which is then
 *  forgotten, so a stolen one opens nothing older. A receiver takes the current epoch or the next: the sender decides when. */

const ALGORITHM = 'chacha20-poly1305';
const TAG_BYTES = 16;
const KEY_BYTES = 32;

export type Direction = 'node to server' | 'server to node';

export interface Clear {
  id: string;
  type: MessageType;
  channel: string;
}
export interface Opened extends Clear {
  payload: Buffer;
  /** Unix time in seconds, by the sender's clock. */
  timestamp: number;
  seq: number;
  epoch: number;
}

export interface Sealer {
  /** A frame. `payload` is JSON text. */
  seal(clear: Clear, payload: string): string;
}
export interface Opener {
  /** @throws AegisError channel.bad_frame, channel.bad_sequence, channel.bad_seal, channel.bad_signature: the connection is over */
  open(frame: string): Opened;
}

export interface Rotation {
  messages: number;
  ms: number;
}

/** @param key of epoch 0: 32 bytes, which are wiped
 *  @param signing where each message is signed too: the sender's identity and the session that it is of */
export const sealer = ({
  key: first,
  direction,
  rotation,
  clock,
  signing,
}: {
  key: Buffer;
  direction: Direction;
  rotation: Rotation;
  clock: { now(): number; monotonic(): number };
  signing: { privateKey: KeyObject; sessionId: Uint8Array } | null;
}): Sealer => {
  let key = secretKey(first);
  let epoch = 0;
  let seq = 0;
  let begunAt = clock.monotonic();
  let inEpoch = 0;
  return {
    seal: ({ id, type, channel }, payload) => {
      const now = clock.monotonic();
      if (inEpoch >= rotation.messages || (inEpoch > 0 && now - begunAt >= rotation.ms)) {
        key = nextKey(key);
        epoch++;
        inEpoch = 0;
        begunAt = now;
      }
      const nonce = nonceOf(seq);
      const clear = { id, type, channel, timestamp: Math.floor(clock.now() / 1000), seq, epoch };
      const associated = associatedData(clear);
      const cipher = createCipheriv(ALGORITHM, key, nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(associated, { plaintextLength: Buffer.byteLength(payload) });
      const sealed = Buffer.concat([cipher.update(payload, 'utf8'), cipher.final(), cipher.getAuthTag()]);
      const signature = signing
        ? sign(null, signedBytes(direction, signing.sessionId, associated, sealed), signing.privateKey)
        : null;
      seq++;
      inEpoch++;
      // Names and ids have a small alphabet (ChannelName, MessageId), so nothing here needs escaping.
      return `{"id":"${id}","type":"${type}","channel":"${channel}","payload":"${sealed.toString('base64')}","nonce":"${nonce.toString('base64')}","signature":"${signature?.toString('base64') ?? ''}","timestamp":${clear.timestamp},"seq":${clear.seq},"epoch":${epoch}}`;
    },
  };
};

/** @param verifying where each message must be signed too: the other side's identity */
export const opener = ({
  key: first,
  direction,
  verifying,
}: {
  key: Buffer;
  direction: Direction;
  verifying: { publicKey: KeyObject; sessionId: Uint8Array } | null;
}): Opener => {
  let key = secretKey(first);
  let epoch = 0;
  let seq = 0;
  return {
    open: (frame) => {
      const message = decodeMessage(frame);
      if (message.seq !== seq || (message.epoch !== epoch && message.epoch !== epoch + 1))
        throw new AegisError(
          'channel.bad_sequence',
          `A message of the channel came out of turn (${message.seq} in epoch ${message.epoch}, where ${seq} in epoch ${epoch} was due): it was repeated, left out or moved. The node connects anew.`,
        );
      const nonce = nonceOf(seq);
      const using = message.epoch === epoch ? key : nextKey(key);
      const associated = associatedData(message);
      const sealed = Buffer.from(message.payload, 'base64');
      const payload = message.nonce === nonce.toString('base64') ? unseal(using, nonce, associated, sealed) : null;
      if (payload === null)
        throw new AegisError(
          'channel.bad_seal',
          'A message of the channel was altered, or sealed for another connection: it is not taken. The node connects anew.',
        );
      if (verifying)
        verifySignature(message, signedBytes(direction, verifying.sessionId, associated, sealed), verifying);
      if (using !== key) {
        key = using;
        epoch++;
      }
      seq++;
      const { id, type, channel, timestamp } = message;
      return { id, type, channel, timestamp, seq: message.seq, epoch, payload };
    },
  };
};

const unseal = (key: KeyObject, nonce: Buffer, associated: Buffer, sealed: Buffer): Buffer | null => {
  const length = sealed.length - TAG_BYTES;
  if (length < 0) return null;
  const decipher = createDecipheriv(ALGORITHM, key, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(associated, { plaintextLength: length });
  decipher.setAuthTag(sealed.subarray(length));
  const payload = decipher.update(sealed.subarray(0, length));
  try {
    decipher.final();
  } catch {
    return null; // the tag is wrong: what was deciphered is nobody's
  }
  return payload;
};

const verifySignature = (
  { signature }: SecureMessage,
  signed: Buffer,
  { publicKey }: { publicKey: KeyObject },
): void => {
  if (signature !== '' && verify(null, signed, publicKey, Buffer.from(signature, 'base64'))) return;
  throw new AegisError(
    'channel.bad_signature',
    "A message of the channel does not carry its sender's signature, though messages are to be signed (sign_messages). The node connects anew.",
  );
};

// Of all connections, so that ten thousand of them do not hold ten thousand of each: what one of these gives holds until its next call, and
// nothing here waits in between.
const NONCE = Buffer.alloc(12);
const nonceOf = (seq: number): Buffer => {
  NONCE.writeBigUInt64BE(BigInt(seq), 4);
  return NONCE;
};
const PREFIX = lengthPrefixed(['aegis-ws-1 message']);
const ASSOCIATED = Buffer.concat([PREFIX], 512);
/** Every clear field, length-prefixed, in this order: as `lengthPrefixed` makes it, and faster. Each field is ASCII, by its pattern. */
const associatedData = ({ id, type, channel, timestamp, seq, epoch }: Omit<Opened, 'payload'>): Buffer => {
  let at = PREFIX.length;
  for (const item of [id, type, channel, String(timestamp), String(seq), String(epoch)]) {
    at = ASSOCIATED.writeUInt32BE(item.length, at);
    at += ASSOCIATED.write(item, at, 'latin1');
  }
  return ASSOCIATED.subarray(0, at);
};

const signedBytes = (direction: Direction, sessionId: Uint8Array, associated: Buffer, sealed: Buffer): Buffer =>
  lengthPrefixed(['aegis-ws-1 signed', direction, sessionId, associated, sealed]);

/** As a KeyObject: node:crypto takes ten times as long over the same bytes in a Buffer. The bytes are wiped here. */
const secretKey = (bytes: Buffer): KeyObject => {
  const key = createSecretKey(bytes);
  bytes.fill(0);
  return key;
};
const nextKey = (key: KeyObject): KeyObject =>
  secretKey(Buffer.from(hkdfSync('sha256', key, '', 'aegis-ws-1 next key', KEY_BYTES)));
