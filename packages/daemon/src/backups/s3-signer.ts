import { createHash, createHmac } from 'node:crypto';
import { bucketAddress } from '@aegis/protocol/backups/bucket-address';
import type { S3Destination } from '@aegis/protocol/backups/config';
import type { SealedCredentials, SignedRequest, WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import type * as z from 'zod/mini';

/** Who signs a request to S3: the server, one by one (`signed`, `presigned`), or this node, with a credential that it holds in memory alone
 *  (`sts`, `static`). Signature Version 4: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html */

export type Wanted = z.input<typeof WantedRequest>;
export interface S3Signer {
  sign(wanted: Wanted): Promise<SignedRequest>;
  /** The S3 server does not take the signature: the next one is made with what is new. */
  stale(): void;
}

export const EMPTY_SHA256 = createHash('sha256').digest('hex');
const SIGNED_FOR_MS = 15 * 60_000;
const RENEW_BEFORE_MS = 5 * 60_000;

/** `fetch` opens the credential anew; it is called again when that expires or is refused. */
export const credentialSigner = ({
  destination,
  fetch,
  now,
}: {
  destination: S3Destination;
  fetch(): Promise<SealedCredentials>;
  now(): number;
}): S3Signer => {
  let held: Promise<SealedCredentials> | null = null;
  const credentials = async (): Promise<SealedCredentials> => {
    held ??= fetch();
    try {
      const current = await held;
      if (current.expires_at === undefined || Date.parse(current.expires_at) - RENEW_BEFORE_MS > now()) return current;
      held = fetch();
      return await held;
    } catch (error) {
      held = null;
      throw error;
    }
  };
  return {
    sign: async (wanted) => sigV4(wanted, { destination, credentials: await credentials(), nowMs: now() }),
    stale: () => {
      held = null;
    },
  };
};

/** What the server adds to the requests that it signs. */
const ownHeaders = (
  { storage_class, object_lock_days, object_lock_mode }: S3Destination,
  { method, query = {}, payload_sha256 }: Wanted,
  nowMs: number,
): Record<string, string> => {
  if (method !== 'PUT') return {};
  // S3 demands one of what is to be locked.
  const checksum =
    object_lock_days === undefined
      ? {}
      : { 'x-amz-checksum-sha256': Buffer.from(payload_sha256, 'hex').toString('base64') };
  if ('partNumber' in query) return checksum;
  const until = new Date(nowMs + (object_lock_days ?? 0) * 86_400_000).toISOString();
  return {
    ...checksum,
    ...(storage_class === undefined ? {} : { 'x-amz-storage-class': storage_class }),
    ...(object_lock_days === undefined
      ? {}
      : {
          'x-amz-object-lock-mode': object_lock_mode.toUpperCase(),
          'x-amz-object-lock-retain-until-date': until,
        }),
  };
};

export const sigV4 = (
  wanted: Wanted,
  { destination, credentials, nowMs }: { destination: S3Destination; credentials: SealedCredentials; nowMs: number },
): SignedRequest => {
  const { region } = destination;
  const { origin, host, root } = bucketAddress(destination);
  const path = `${root}${wanted.key}`.split('/').map(encoded).join('/');
  const query = Object.entries(wanted.query ?? {})
    .map(([name, value]) => `${encoded(name)}=${encoded(value)}`)
    .sort()
    .join('&');
  const time = new Date(nowMs).toISOString().replace(/[-:]|\.\d{3}/g, '');
  const headers: Record<string, string> = {
    ...(wanted.headers ?? {}),
    ...ownHeaders(destination, wanted, nowMs),
    host,
    'x-amz-content-sha256': wanted.payload_sha256,
    'x-amz-date': time,
    ...(credentials.session_token === undefined ? {} : { 'x-amz-security-token': credentials.session_token }),
  };
  const names = Object.keys(headers).sort();
  const canonical = [
    wanted.method,
    path,
    query,
    ...names.map((name) => `${name}:${String(headers[name]).trim().replace(/ +/g, ' ')}`),
    '',
    names.join(';'),
    wanted.payload_sha256,
  ].join('\n');
  const scope = `${time.slice(0, 8)}/${region}/s3/aws4_request`;
  const text = ['AWS4-HMAC-SHA256', time, scope, createHash('sha256').update(canonical).digest('hex')].join('\n');
  const key = scope
    .split('/')
    .reduce<Buffer>((secret, part) => hmac(secret, part), Buffer.from(`AWS4${credentials.secret_access_key}`));
  const signature = hmac(key, text).toString('hex');
  return {
    url: `${origin}${path}${query === '' ? '' : `?${query}`}`,
    headers: {
      ...headers,
      authorization: `AWS4-HMAC-SHA256 Credential=${credentials.access_key_id}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`,
    },
    expires_at: new Date(nowMs + SIGNED_FOR_MS).toISOString(),
  };
};

const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
/** RFC 3986: everything but unreserved characters. */
const encoded = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
