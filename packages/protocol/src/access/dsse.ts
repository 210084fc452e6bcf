import { type KeyObject, sign, verify } from 'node:crypto';
import * as z from 'zod/mini';
import type { KeyPair } from './keys.ts';

/** DSSE envelopes (https://github.com/secure-systems-lab/dsse, protocol v1.0.0): the payload is signed as bytes,
 *  together with its type, so nothing needs to be canonical and no type is taken for another. */

export const PAYLOAD_TYPES = {
  directive: 'application/vnd.aegis.directive.v1+json',
  trust: 'application/vnd.aegis.trust.v1+json',
  report: 'application/vnd.aegis.report.v1+json',
  manifest: 'application/vnd.aegis.manifest.v1+json',
  auditHead: 'application/vnd.aegis.audit-head.v1+json',
} as const;
export type PayloadType = (typeof PAYLOAD_TYPES)[keyof typeof PAYLOAD_TYPES];

const MAX_PAYLOAD_CHARS = 8 * 1024 * 1024;

export const Envelope = z.strictObject({
  payloadType: z.string().check(z.maxLength(128)),
  payload: z.string().check(z.maxLength(MAX_PAYLOAD_CHARS)),
  signatures: z
    .array(z.strictObject({ keyid: z.string().check(z.maxLength(128)), sig: z.string().check(z.maxLength(128)) }))
    .check(z.minLength(1), z.maxLength(16)),
});
export type Envelope = z.infer<typeof Envelope>;

/** Pre-authentication encoding: "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload. */
export const preAuthEncoding = (payloadType: string, payload: Uint8Array): Buffer => {
  const type = Buffer.from(payloadType, 'utf8');
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} `), type, Buffer.from(` ${payload.length} `), payload]);
};

export const signEnvelope = (payloadType: PayloadType, payload: unknown, ...keys: KeyPair[]): Envelope => {
  const bytes = Buffer.from(JSON.stringify(payload), 'utf8');
  const message = preAuthEncoding(payloadType, bytes);
  return {
    payloadType,
    payload: bytes.toString('base64'),
    signatures: keys.map((key) => ({ keyid: key.keyId, sig: sign(null, message, key.privateKey).toString('base64') })),
  };
};

/** With one signature more; the same again changes nothing. */
export const withSignature = (envelope: Envelope, key: KeyPair): Envelope => ({
  ...envelope,
  signatures: [
    ...envelope.signatures.filter(({ keyid }) => keyid !== key.keyId),
    {
      keyid: key.keyId,
      sig: sign(
        null,
        preAuthEncoding(envelope.payloadType, Buffer.from(envelope.payload, 'base64')),
        key.privateKey,
      ).toString('base64'),
    },
  ],
});

/** The payload's bytes and the ids of those keys of `keys` (key id → public key) whose signature is good; each counts once.
 *  An empty `signedBy` means: trust nothing in it. */
export const openEnvelope = (
  envelope: Envelope,
  payloadType: PayloadType,
  keys: ReadonlyMap<string, KeyObject>,
): { payload: Buffer; signedBy: string[] } => {
  const payload = Buffer.from(envelope.payload, 'base64');
  const signedBy = new Set<string>();
  if (envelope.payloadType === payloadType) {
    const message = preAuthEncoding(payloadType, payload);
    for (const { keyid, sig } of envelope.signatures) {
      const key = keys.get(keyid);
      if (key && !signedBy.has(keyid) && verify(null, message, key, Buffer.from(sig, 'base64'))) signedBy.add(keyid);
    }
  }
  return { payload, signedBy: [...signedBy] };
};

/** As `signEnvelope` with one key, in libuv's thread pool: a server that signs thousands a second keeps its event loop free. */
export const signEnvelopeInPool = (payloadType: PayloadType, payload: unknown, key: KeyPair): Promise<Envelope> =>
  new Promise((resolve, reject) => {
    const bytes = Buffer.from(JSON.stringify(payload), 'utf8');
    const { keyId, privateKey } = key; // a server's key may be another one by the time that this is signed
    sign(null, preAuthEncoding(payloadType, bytes), privateKey, (error, signature) => {
      if (error) reject(error);
      else
        resolve({
          payloadType,
          payload: bytes.toString('base64'),
          signatures: [{ keyid: keyId, sig: signature.toString('base64') }],
        });
    });
  });

/** As `openEnvelope` for one key, in libuv's thread pool: the payload's bytes, and whether that key signed them. */
export const openEnvelopeInPool = (
  envelope: Envelope,
  payloadType: PayloadType,
  keyId: string,
  key: KeyObject,
): Promise<{ payload: Buffer; signed: boolean }> =>
  new Promise((resolve) => {
    const payload = Buffer.from(envelope.payload, 'base64');
    const signature = envelope.signatures.find(({ keyid }) => keyid === keyId);
    if (envelope.payloadType !== payloadType || !signature) return resolve({ payload, signed: false });
    const message = preAuthEncoding(payloadType, payload);
    verify(null, message, key, Buffer.from(signature.sig, 'base64'), (error, good) =>
      resolve({ payload, signed: error === null && good }),
    );
  });
