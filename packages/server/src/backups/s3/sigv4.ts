import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto';

/** AWS Signature Version 4 as S3 wants it (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html): the canonical request is
 *  made here of its parts, never taken from anyone. Pure: credentials and time are parameters. */

export interface SigningCredentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
}
/** A request as it will be sent. Names of headers are lower-case. */
export interface CanonicalParts {
  method: string;
  /** Decoded: a slash, then what is asked for. */
  path: string;
  /** Decoded names and values; the order does not matter. */
  query: readonly (readonly [name: string, value: string])[];
  /** All that are signed, `host` among them. */
  headers: Readonly<Record<string, string>>;
  /** Hexadecimal SHA-256, or UNSIGNED-PAYLOAD. */
  payloadSha256: string;
}
export interface SigningScope {
  region: string;
  service: string;
  /** Milliseconds since 1970. */
  now: number;
}

export const UNSIGNED_PAYLOAD = 'UNSIGNED-PAYLOAD';
export const EMPTY_SHA256 = hash('sha256', '');
const ALGORITHM = 'AWS4-HMAC-SHA256';

/** RFC 3986: everything but letters, digits and -._~ becomes %XX, in capitals. */
export const encodeRfc3986 = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`);
export const encodePath = (path: string): string => path.split('/').map(encodeRfc3986).join('/');
/** In canonical order, which is as good as any to send. */
export const encodeQuery = (query: CanonicalParts['query']): string =>
  query
    .map(([name, value]) => [encodeRfc3986(name), encodeRfc3986(value)] as const)
    .sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : x < y ? -1 : x > y ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');

/** `20130524T000000Z` */
export const amzDate = (now: number): string => new Date(now).toISOString().replace(/[-:]|\.\d+/g, '');

const hmac = (key: Buffer | string, text: string): Buffer => createHmac('sha256', key).update(text, 'utf8').digest();
const scopeOf = (date: string, { region, service }: SigningScope): string =>
  `${date}/${region}/${service}/aws4_request`;

/** Keys derived once for each day, region, service and secret, of the last so many. As KeyObjects: node:crypto takes six times as long over
 *  the same bytes in a Buffer. */
export type SigningKeys = (secretAccessKey: string, date: string, scope: SigningScope) => KeyObject;
const KEPT = 64;
export const signingKeys = (): SigningKeys => {
  const known = new Map<string, KeyObject>();
  return (secretAccessKey, date, scope) => {
    const name = `${secretAccessKey}\n${scopeOf(date, scope)}`;
    const found = known.get(name);
    if (found) return found;
    const bytes = hmac(hmac(hmac(hmac(`AWS4${secretAccessKey}`, date), scope.region), scope.service), 'aws4_request');
    const key = createSecretKey(bytes);
    if (known.size >= KEPT) known.delete(known.keys().next().value ?? '');
    known.set(name, key);
    return key;
  };
};

const signedNames = (headers: CanonicalParts['headers']): string[] => Object.keys(headers).sort();

const signatureOf = (
  parts: CanonicalParts,
  credentials: SigningCredentials,
  scope: SigningScope,
  keys: SigningKeys,
): string => {
  const names = signedNames(parts.headers);
  const canonical = [
    parts.method,
    encodePath(parts.path),
    encodeQuery(parts.query),
    ...names.map((name) => `${name}:${(parts.headers[name] ?? '').trim().replace(/ {2,}/g, ' ')}`),
    '',
    names.join(';'),
    parts.payloadSha256,
  ].join('\n');
  const time = amzDate(scope.now);
  const date = time.slice(0, 8);
  const digest = hash('sha256', canonical);
  return createHmac('sha256', keys(credentials.secretAccessKey, date, scope))
    .update(`${ALGORITHM}\n${time}\n${scopeOf(date, scope)}\n${digest}`, 'utf8')
    .digest('hex');
};

/** What the `Authorization` header says. `headers` must hold `x-amz-date` and what else is to be signed. */
export const authorization = (
  parts: CanonicalParts,
  credentials: SigningCredentials,
  scope: SigningScope,
  keys: SigningKeys,
): string => {
  const credential = `${credentials.accessKeyId}/${scopeOf(amzDate(scope.now).slice(0, 8), scope)}`;
  const signature = signatureOf(parts, credentials, scope, keys);
  return `${ALGORITHM} Credential=${credential},SignedHeaders=${signedNames(parts.headers).join(';')},Signature=${signature}`;
};

/** The whole query of a presigned request; whoever sends it must send `parts.headers` too. */
export const presignedQuery = (
  parts: CanonicalParts,
  credentials: SigningCredentials,
  scope: SigningScope,
  expiresSec: number,
  keys: SigningKeys,
): string => {
  const time = amzDate(scope.now);
  const query: CanonicalParts['query'] = [
    ...parts.query,
    ['X-Amz-Algorithm', ALGORITHM],
    ['X-Amz-Credential', `${credentials.accessKeyId}/${scopeOf(time.slice(0, 8), scope)}`],
    ['X-Amz-Date', time],
    ['X-Amz-Expires', String(expiresSec)],
    ...(credentials.sessionToken === undefined ? [] : [['X-Amz-Security-Token', credentials.sessionToken] as const]),
    ['X-Amz-SignedHeaders', signedNames(parts.headers).join(';')],
  ];
  const signature = signatureOf({ ...parts, query }, credentials, scope, keys);
  return `${encodeQuery(query)}&X-Amz-Signature=${signature}`;
};
