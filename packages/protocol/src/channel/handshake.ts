import {
  createHash,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  sign,
  timingSafeEqual,
  verify,
} from 'node:crypto';
import { type KeyPair, publicKeyFromRaw, rawPublicKey } from '../access/keys.ts';
import { AegisError } from '../errors.ts';
import { lengthPrefixed } from '../nodes/enrolment.ts';
import { type AcceptedAuthentication, type AuthenticationRequest, CHANNEL_VERSIONS } from './messages.ts';

/** The handshake: each side makes an X25519 key for this connection and signs it with its identity, together with everything else that was
 *  said, the versions offered included, so that nobody in between can talk them down. The node signs first, before it has seen the answer:
 *  a request that somebody captured can be sent again, but who sends it cannot open the answer's keys. So the server counts a node as here
 *  only after its first sealed message (SIGMA's confirmation, by the key rather than by another signature). */

export interface SessionKeys {
  /** 32 bytes each, of epoch 0. */
  nodeToServer: Buffer;
  serverToNode: Buffer;
  /** SHA-256 of the server's transcript: the same on both sides, and of this connection alone. */
  sessionId: Buffer;
}

type SignedRequest = Omit<AuthenticationRequest, 'signature'>;
type SignedAnswer = Omit<AcceptedAuthentication, 'signature'>;

const bytes = (base64: string): Buffer => Buffer.from(base64, 'base64');

/** What the node signs. Not the server's key: it learns from the answer which of the keys that its trust bundle lists the server has now. */
export const nodeTranscript = (fleet: string, request: SignedRequest): Buffer =>
  lengthPrefixed([
    'aegis-ws-1 node',
    fleet,
    request.agent_id,
    request.versions.join(','),
    bytes(request.public_key),
    bytes(request.ephemeral_key),
    bytes(request.nonce),
    String(request.timestamp),
  ]);

/** What the server signs: all that the node said and signed, and each field of the answer. */
export const serverTranscript = (fleet: string, request: AuthenticationRequest, answer: SignedAnswer): Buffer =>
  lengthPrefixed([
    'aegis-ws-1 server',
    nodeTranscript(fleet, request),
    bytes(request.signature),
    String(answer.version),
    bytes(answer.server_key),
    bytes(answer.backend_key),
    bytes(answer.nonce),
    String(answer.timestamp),
    answer.session_token,
    String(answer.expires_at),
    answer.sign_messages ? 'signed' : 'unsigned',
    String(answer.rotation_messages),
    String(answer.rotation_sec),
    String(answer.heartbeat_sec),
  ]);

export interface Ephemeral {
  privateKey: KeyObject;
  publicRaw: Buffer;
}
export const makeEphemeral = (): Ephemeral => {
  const { privateKey } = generateKeyPairSync('x25519');
  return { privateKey, publicRaw: rawPublicKey(privateKey) };
};

export const signRequest = (fleet: string, identity: KeyPair, request: SignedRequest): AuthenticationRequest => ({
  ...request,
  signature: sign(null, nodeTranscript(fleet, request), identity.privateKey).toString('base64'),
});

/** Whether whoever made the request holds the key in it. That the key is the node's is the caller's to know. */
export const isRequestSigned = (fleet: string, request: AuthenticationRequest): boolean =>
  verify(null, nodeTranscript(fleet, request), publicKeyFromRaw(bytes(request.public_key)), bytes(request.signature));

/** The newest that both know; null: none. */
export const chooseVersion = (offered: readonly number[]): number | null =>
  CHANNEL_VERSIONS.find((version) => offered.includes(version)) ?? null;

/** @throws AegisError channel.bad_handshake for an ephemeral key that gives away the secret */
export const acceptRequest = (
  { fleet, identity, ephemeral }: { fleet: string; identity: KeyPair; ephemeral: Ephemeral },
  request: AuthenticationRequest,
  answer: Omit<SignedAnswer, 'success' | 'backend_key' | 'server_key'>,
): { answer: AcceptedAuthentication; keys: SessionKeys } => {
  const facts: SignedAnswer = {
    ...answer,
    success: true,
    backend_key: ephemeral.publicRaw.toString('base64'),
    server_key: identity.publicRaw.toString('base64'),
  };
  const transcript = serverTranscript(fleet, request, facts);
  return {
    keys: sessionKeys(ephemeral, request.ephemeral_key, transcript),
    answer: { ...facts, signature: sign(null, transcript, identity.privateKey).toString('base64') },
  };
};

/** The node's side of the answer.
 *  @param isServerKey whether the trust bundle lets this key serve
 *  @throws AegisError channel.bad_handshake: another server, or one that speaks of another request; channel.unsupported_version */
export const openAnswer = (
  { fleet, isServerKey, ephemeral }: { fleet: string; isServerKey: (raw: Buffer) => boolean; ephemeral: Ephemeral },
  request: AuthenticationRequest,
  answer: AcceptedAuthentication,
): SessionKeys => {
  const serverKey = bytes(answer.server_key);
  if (!isServerKey(serverKey))
    throw new AegisError(
      'channel.bad_handshake',
      'Another server answers than the one that this node was enrolled with: nothing is said to it. See that the address leads to your server, or give the node the trust bundle that names its new key.',
    );
  const transcript = serverTranscript(fleet, request, answer);
  if (!verify(null, transcript, publicKeyFromRaw(serverKey), bytes(answer.signature)))
    throw new AegisError(
      'channel.bad_handshake',
      "The server's answer is not signed by its key, or speaks of another request: somebody between node and server altered it. The node tries again.",
    );
  if (!request.versions.includes(answer.version) || !CHANNEL_VERSIONS.some((version) => version === answer.version))
    throw new AegisError(
      'channel.unsupported_version',
      `The server chose version ${answer.version} of the channel, which was not offered. Give server and node releases that know a common one.`,
    );
  return sessionKeys(ephemeral, answer.backend_key, transcript);
};

const sessionKeys = (own: Ephemeral, theirs: string, transcript: Buffer): SessionKeys => {
  const sessionId = createHash('sha256').update(transcript).digest();
  const shared = sharedSecret(own.privateKey, bytes(theirs));
  const derive = (direction: string): Buffer =>
    Buffer.from(hkdfSync('sha256', shared, sessionId, `aegis-ws-1 ${direction}`, 32));
  try {
    return { nodeToServer: derive('node to server'), serverToNode: derive('server to node'), sessionId };
  } finally {
    shared.fill(0);
  }
};

/** RFC 7748, section 6.1: points of small order give a secret of zeros, which everybody knows. */
const sharedSecret = (privateKey: KeyObject, theirs: Buffer): Buffer => {
  try {
    const shared = diffieHellman({ privateKey, publicKey: publicKeyFromRaw(theirs, 'x25519') });
    if (!sameBytes(shared, Buffer.alloc(32))) return shared;
  } catch {
    // OpenSSL refuses most of them itself.
  }
  throw new AegisError(
    'channel.bad_handshake',
    'The other side sent a key that would let anyone read what is sealed: the connection is not used.',
  );
};

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && timingSafeEqual(a, b);
