import type { WantedRequest } from '@aegis/protocol/backups/node-endpoints';

/** Query parameters and headers of a request that a node wants signed: those that are allowed, and what is said of the others. */

/** Thrown and caught by the policy alone (signing.ts). */
export class Refusal extends Error {}
export const refuse = (sentence: string): never => {
  throw new Refusal(sentence);
};

const FORBIDDEN_QUERY: Readonly<Record<string, string>> = {
  acl: 'Access lists are neither read nor changed.',
  tagging: 'Tags are neither read nor changed.',
  retention: 'Object lock is set by the server alone.',
  'legal-hold': 'Object lock is set by the server alone.',
  'object-lock': 'Object lock is set by the server alone.',
  uploads: 'Multipart uploads are opened and listed by the server: ask it to open one for the run.',
  versionId: 'Versions of objects are neither read nor changed.',
  versions: 'Versions of objects are neither read nor changed.',
  delete: 'Nodes do not delete: retention does, on the server.',
  policy: 'The settings of a bucket are neither read nor changed.',
  torrent: 'Only the object itself is read.',
  restore: 'Objects are brought back from an archive tier by an operator.',
  select: 'Only the object itself is read.',
};
export const PART_QUERY = ['uploadId', 'partNumber'];
export const LIST_QUERY = ['list-type', 'prefix', 'delimiter', 'max-keys', 'continuation-token', 'encoding-type'];
const QUERY = new Set([...PART_QUERY, ...LIST_QUERY, 'x-id']);

export const checkQueryNames = ({ query }: WantedRequest): ReadonlyMap<string, string> => {
  const names = new Map(Object.entries(query));
  for (const [name, value] of names) {
    if (name.toLowerCase().startsWith('x-amz-'))
      refuse('Parameters of signatures and headers in the query are refused.');
    if (name.startsWith('response-')) refuse('Headers of the answer cannot be chosen.');
    const why = Object.hasOwn(FORBIDDEN_QUERY, name) ? FORBIDDEN_QUERY[name] : undefined;
    if (why !== undefined) refuse(why);
    if (!QUERY.has(name)) refuse('The request has a query parameter that is not on the list of those allowed.');
    if (!value.isWellFormed() || /\p{Cc}/u.test(value))
      refuse('A query parameter holds characters that do not belong there.');
  }
  return names;
};
/** The operation's name, that the SDK adds to its addresses. */
export const checkOperation = (query: ReadonlyMap<string, string>, operation: string): [string, string][] => {
  const id = query.get('x-id');
  if (id === undefined) return [];
  return id === operation
    ? [['x-id', operation]]
    : refuse(`The parameter x-id names another operation than ${operation}.`);
};
export const onlyQuery = (query: ReadonlyMap<string, string>, ...names: string[]): void => {
  for (const name of query.keys())
    if (name !== 'x-id' && !names.includes(name))
      refuse('The request has a query parameter that does not belong to its operation.');
};

const BASE64 = (bytes: number): RegExp => {
  const whole = Math.floor(bytes / 3) * 4;
  const rest = bytes % 3;
  return new RegExp(
    `^[A-Za-z0-9+/]{${whole}}${rest === 1 ? '[A-Za-z0-9+/]{2}==' : rest === 2 ? '[A-Za-z0-9+/]{3}=' : ''}$`,
  );
};
const CHECKSUMS: Readonly<Record<string, RegExp>> = {
  'content-md5': BASE64(16),
  'x-amz-checksum-crc32': BASE64(4),
  'x-amz-checksum-crc32c': BASE64(4),
  'x-amz-checksum-crc64nvme': BASE64(8),
  'x-amz-checksum-sha1': BASE64(20),
  'x-amz-checksum-sha256': BASE64(32),
};
export const UPLOAD_HEADERS: Readonly<Record<string, RegExp>> = {
  ...CHECKSUMS,
  'x-amz-sdk-checksum-algorithm': /^(?:CRC32|CRC32C|CRC64NVME|SHA1|SHA256)$/,
  'content-type': /^application\/octet-stream$/,
};
export const READ_HEADERS: Readonly<Record<string, RegExp>> = {
  range: /^bytes=(?:\d{1,15}-\d{0,15}|-\d{1,15})$/,
  'if-match': /^"[\x21\x23-\x7e]{1,128}"$/,
  'x-amz-checksum-mode': /^ENABLED$/,
};
const FORBIDDEN_HEADERS: readonly (readonly [RegExp, string])[] = [
  [
    /^(?:host|x-amz-date|date|x-amz-content-sha256|authorization|x-amz-security-token|content-length)$/,
    'The server itself sets host, date, length, payload hash and authorization.',
  ],
  [/^x-amz-copy-source/, 'Objects are not copied.'],
  [/^x-amz-(?:acl|grant-)/, 'Access lists are neither read nor changed.'],
  [/^x-amz-tagging/, 'Tags are neither read nor changed.'],
  [/^x-amz-(?:object-lock-|bypass-governance)/, 'Object lock is set by the server alone.'],
  [/^x-amz-storage-class$/, "The storage class is the destination's, and set by the server."],
  [/^x-amz-server-side-encryption/, "Encryption at the server's side is the bucket's own matter."],
  [/^x-amz-meta-/, 'Objects have no metadata of their own.'],
  [/^x-amz-website-redirect/, 'Objects do not redirect.'],
  [
    /^(?:x-amz-trailer|x-amz-decoded-content-length|content-encoding|transfer-encoding|trailer)$/,
    'Bodies are sent as they are, without chunks or trailers.',
  ],
  [/^x-amz-(?:request-payer|expected-bucket-owner|mfa)$/, 'Whose bucket it is, is not to be said by a node.'],
];
export const checkHeaders = ({ headers }: WantedRequest): ReadonlyMap<string, string> => {
  const names = new Map(Object.entries(headers));
  for (const [name, value] of names) {
    if (name !== name.toLowerCase()) refuse('Names of headers are to be in lower case.');
    for (const [forbidden, why] of FORBIDDEN_HEADERS) if (forbidden.test(name)) refuse(why);
    // A line break would begin another header, or another line of what is signed.
    if (!/^[\x20-\x7e]*$/.test(value) || value !== value.trim())
      refuse('A header holds characters that do not belong there.');
  }
  return names;
};
export const onlyHeaders = (
  headers: ReadonlyMap<string, string>,
  allowed: Readonly<Record<string, RegExp>>,
): Record<string, string> => {
  for (const [name, value] of headers) {
    const pattern = Object.hasOwn(allowed, name) ? allowed[name] : undefined;
    if (pattern === undefined) return refuse('The request has a header that is not on the list of those allowed.');
    if (!pattern.test(value)) return refuse(`The header ${name} does not have a value that is allowed.`);
  }
  return Object.fromEntries(headers);
};
