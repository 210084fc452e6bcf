import { AegisError } from '../errors.ts';

/** Join token text: `aegis1.<id>.<secret>.<root fingerprint>[.<tls fingerprint>]`. The secret is never sent: enrolment proves
 *  knowledge of it by HMAC, and the fingerprint lets the node check the server before it says anything more. */
export interface JoinToken {
  id: string;
  /** 32 bytes, base64url. */
  secret: string;
  /** Hex SHA-256 of the root's raw public key. */
  rootFingerprint: string;
  /** Hex SHA-256 of the server certificate's DER, when TLS is to be pinned. */
  tlsFingerprint?: string;
}

const TEXT =
  /^aegis1\.(?<id>[A-Za-z0-9_-]{1,64})\.(?<secret>[A-Za-z0-9_-]{43})\.(?<root>[0-9a-f]{64})(?:\.(?<tls>[0-9a-f]{64}))?$/;

export const formatJoinToken = (token: JoinToken): string =>
  [
    'aegis1',
    token.id,
    token.secret,
    token.rootFingerprint,
    ...(token.tlsFingerprint ? [token.tlsFingerprint] : []),
  ].join('.');

/** @throws AegisError nodes.bad_join_token; the message never repeats the text, which holds a secret */
export const parseJoinToken = (text: string): JoinToken => {
  const groups = TEXT.exec(text.trim())?.groups;
  const { id, secret, root, tls } = groups ?? {};
  if (!id || !secret || !root)
    throw new AegisError(
      'nodes.bad_join_token',
      "That is not a join token (aegis1.<id>.<secret>.<root fingerprint>). Make one with 'aegis server join-token'.",
    );
  return { id, secret, rootFingerprint: root, ...(tls ? { tlsFingerprint: tls } : {}) };
};
