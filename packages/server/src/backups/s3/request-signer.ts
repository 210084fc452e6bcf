import { bucketAddress } from '@aegis/protocol/backups/bucket-address';
import type { S3Destination } from '@aegis/protocol/backups/config';
import type { SignedRequest } from '@aegis/protocol/backups/node-endpoints';
import { isoTime } from '../../platform/clock.ts';
import type { AllowedRequest } from '../signing.ts';
import {
  amzDate,
  authorization,
  encodePath,
  encodeQuery,
  presignedQuery,
  type SigningCredentials,
  type SigningScope,
  signingKeys,
  UNSIGNED_PAYLOAD,
} from './sigv4.ts';

/** Signatures for one destination, over what `allow` (signing.ts) has let through and what an operator configured: host, region, date,
 *  storage class and object lock are the server's own. */

/** As long as S3 takes a signed request after its date. */
const SIGNED_SEC = 15 * 60;

export interface Link {
  url: string;
  /** Milliseconds. */
  expiresAt: number;
}

export const requestSigner = (destination: S3Destination) => {
  const address = bucketAddress(destination);
  const keys = signingKeys();
  const locks = destination.object_lock_days !== undefined;
  const scope = (now: number): SigningScope => ({ region: destination.region, service: 's3', now });

  const added = ({ kind, headers, payloadSha256 }: AllowedRequest, lockedUntil: number | null) => {
    const more: Record<string, string> = {};
    if (kind === 'put') {
      if (destination.storage_class !== undefined) more['x-amz-storage-class'] = destination.storage_class;
      if (locks && lockedUntil !== null) {
        more['x-amz-object-lock-mode'] = destination.object_lock_mode.toUpperCase();
        more['x-amz-object-lock-retain-until-date'] = isoTime(lockedUntil);
      }
    }
    // What is to be locked needs a checksum: S3 demands it.
    const writes = kind === 'put' || kind === 'part';
    if (locks && writes && !hasChecksum(headers))
      more['x-amz-checksum-sha256'] = Buffer.from(payloadSha256, 'hex').toString('base64');
    return more;
  };

  return {
    /** In the destination's way: headers to send, or a presigned address with those that it names. @param now milliseconds */
    sign: (
      allowed: AllowedRequest,
      credentials: SigningCredentials,
      lockedUntil: number | null,
      now: number,
    ): SignedRequest => {
      const { method, query, payloadSha256 } = allowed;
      const path = `${address.root}${allowed.key}`;
      const url = `${address.origin}${encodePath(path)}`;
      const headers: Record<string, string> = { ...allowed.headers, ...added(allowed, lockedUntil) };
      if (allowed.contentLength !== null) headers['content-length'] = String(allowed.contentLength);
      headers['x-amz-content-sha256'] = payloadSha256;
      const expires_at = isoTime(now + SIGNED_SEC * 1000);
      const presigned = destination.access === 'presigned';
      if (!presigned) {
        headers['x-amz-date'] = amzDate(now);
        if (credentials.sessionToken !== undefined) headers['x-amz-security-token'] = credentials.sessionToken;
      }
      const parts = { method, path, query, headers: { ...headers, host: address.host }, payloadSha256 };
      if (presigned)
        return {
          url: `${url}?${presignedQuery(parts, credentials, scope(now), SIGNED_SEC, keys)}`,
          headers,
          expires_at,
        };
      headers.authorization = authorization(parts, credentials, scope(now), keys);
      return { url: query.length === 0 ? url : `${url}?${encodeQuery(query)}`, headers, expires_at };
    },
    /** With nothing signed but the host: for whoever holds it, until it expires. */
    link: (
      {
        method,
        key,
        query,
      }: { method: 'GET' | 'PUT'; key: string; query: readonly (readonly [name: string, value: string])[] },
      credentials: SigningCredentials,
      expiresSec: number,
      now: number,
    ): Link => {
      const path = `${address.root}${key}`;
      const parts = { method, path, query, headers: { host: address.host }, payloadSha256: UNSIGNED_PAYLOAD };
      const signed = presignedQuery(parts, credentials, scope(now), expiresSec, keys);
      return { url: `${address.origin}${encodePath(path)}?${signed}`, expiresAt: now + expiresSec * 1000 };
    },
  };
};

const hasChecksum = (headers: Readonly<Record<string, string>>): boolean =>
  Object.keys(headers).some((name) => name === 'content-md5' || name.startsWith('x-amz-checksum-'));
