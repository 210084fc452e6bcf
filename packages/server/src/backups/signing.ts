import type { WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import { objectNames, type RunObject } from '@aegis/protocol/backups/run';
import { EMPTY_SHA256, UNSIGNED_PAYLOAD } from './s3/sigv4.ts';

/** Which requests to S3 the server signs for a node: the policy alone, pure. Whatever is not listed here is refused, with a sentence of its
 *  own. What is allowed is made anew of its parts: nothing that a node wrote goes into a signature unseen. */

/** What the decision rests on. Of the run that the node names; its own, or one that it was granted for reading. */
export interface SigningFacts {
  /** Of the destination. */
  tls: boolean;
  /** It knows If-None-Match on PutObject. Where it does not, a node's only way to write is a multipart upload, which the server completes. */
  conditionalWrites: boolean;
  /** Objects are to be locked: S3 wants a checksum of each upload then. */
  objectLock: boolean;
  /** Each ends with a slash. */
  readable: readonly string[];
  /** Null for a run of another node, which can only be read. */
  writing: WritingFacts | null;
}
export interface WritingFacts {
  /** Of the running attempt; ends with a slash. */
  prefix: string;
  encrypted: boolean;
  /** Why nothing is written any more; null while the attempt runs. */
  ended: string | null;
  /** Milliseconds. */
  deadlineAt: number;
  maxBytes: number;
  /** That the server opened for this attempt, by id. */
  uploads: ReadonlyMap<string, { key: string; closed: boolean }>;
  written: Written;
}
/** Bytes that were signed for, by slot: a part that is sent again counts once, with its greatest length. */
export interface Written {
  readonly total: number;
  of(slot: string): number;
}

export type RequestKind = 'put' | 'part' | 'get' | 'head' | 'list';
export interface AllowedRequest {
  kind: RequestKind;
  method: 'PUT' | 'GET' | 'HEAD';
  /** Empty for a listing. */
  key: string;
  query: readonly (readonly [name: string, value: string])[];
  /** Beside host, date, payload hash and content-length. */
  headers: Readonly<Record<string, string>>;
  payloadSha256: string;
  /** Null for a request without a body. */
  contentLength: number | null;
  /** What it counts as in `Written`; null for reading. */
  slot: string | null;
}
export type Verdict = { allowed: AllowedRequest } | { refused: string };

export const MAX_PUT_BYTES = 5 * 1024 ** 3;
export const MAX_PARTS = 10_000;
const MAX_KEY_BYTES = 1024;
/** Of every key that the server makes. Nothing in it is encoded, so that no one reads a key otherwise than we do. */
const KEY = /^[A-Za-z0-9!_.*'()=/-]+$/;
const SHA256 = /^[0-9a-f]{64}$/;

/** Thrown and caught in this file alone. */
class Refusal extends Error {}
const refuse = (sentence: string): never => {
  throw new Refusal(sentence);
};

export const allow = (wanted: WantedRequest, facts: SigningFacts, now: number): Verdict => {
  try {
    return { allowed: decide(wanted, facts, now) };
  } catch (error) {
    if (error instanceof Refusal) return { refused: error.message };
    throw error;
  }
};

const decide = (wanted: WantedRequest, facts: SigningFacts, now: number): AllowedRequest => {
  checkPayload(wanted, facts);
  const query = checkQueryNames(wanted);
  const headers = checkHeaders(wanted);
  switch (wanted.method) {
    case 'DELETE':
      return refuse('Nodes do not delete: retention does, on the server.');
    case 'POST':
      return refuse('Nodes send no POST: the server itself creates, completes and aborts multipart uploads.');
    case 'PUT':
      return query.has('uploadId') || query.has('partNumber')
        ? decidePart(wanted, query, headers, facts, now)
        : decidePut(wanted, query, headers, facts, now);
    case 'HEAD':
      return decideRead(wanted, 'head', query, headers, facts);
    case 'GET':
      return wanted.key === ''
        ? decideList(wanted, query, headers, facts)
        : decideRead(wanted, 'get', query, headers, facts);
  }
};

// What is common to all.

const checkPayload = ({ payload_sha256: hash, method, content_length: length }: WantedRequest, facts: SigningFacts) => {
  if (hash.startsWith('STREAMING-'))
    refuse('Chunk-wise signatures (STREAMING-…) are not made. Send the SHA-256 of the whole body.');
  if (hash === UNSIGNED_PAYLOAD) {
    if (!facts.tls) refuse('UNSIGNED-PAYLOAD is for destinations with TLS only. Send the SHA-256 of the body.');
  } else if (!SHA256.test(hash)) refuse('The payload hash must be 64 hexadecimal digits in lower case.');
  if (method === 'PUT') return;
  if (length !== 0) refuse('A request that only reads has no body.');
  if (hash !== EMPTY_SHA256 && hash !== UNSIGNED_PAYLOAD)
    refuse('The payload hash of a request without a body is wrong.');
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
const PART_QUERY = ['uploadId', 'partNumber'];
const LIST_QUERY = ['list-type', 'prefix', 'delimiter', 'max-keys', 'continuation-token', 'encoding-type'];
const QUERY = new Set([...PART_QUERY, ...LIST_QUERY, 'x-id']);

const checkQueryNames = ({ query }: WantedRequest): ReadonlyMap<string, string> => {
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
const checkOperation = (query: ReadonlyMap<string, string>, operation: string): [string, string][] => {
  const id = query.get('x-id');
  if (id === undefined) return [];
  return id === operation
    ? [['x-id', operation]]
    : refuse(`The parameter x-id names another operation than ${operation}.`);
};
const onlyQuery = (query: ReadonlyMap<string, string>, ...names: string[]): void => {
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
const UPLOAD_HEADERS: Readonly<Record<string, RegExp>> = {
  ...CHECKSUMS,
  'x-amz-sdk-checksum-algorithm': /^(?:CRC32|CRC32C|CRC64NVME|SHA1|SHA256)$/,
  'content-type': /^application\/octet-stream$/,
};
const READ_HEADERS: Readonly<Record<string, RegExp>> = {
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
const checkHeaders = ({ headers }: WantedRequest): ReadonlyMap<string, string> => {
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
const onlyHeaders = (
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

const checkKey = (key: string): string => {
  if (!key.isWellFormed() || !KEY.test(key)) return refuse('The key holds characters that no key of a backup has.');
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) return refuse(`The key is longer than ${MAX_KEY_BYTES} bytes.`);
  if (key.split('/').some((part) => part === '' || part === '.' || part === '..'))
    return refuse('The key has an empty segment, or one that would lead elsewhere.');
  return key;
};
/** By segment: `a/b` lies below `a/`, `ab/c` does not. @param prefix ends with a slash */
const isBelow = (key: string, prefix: string): boolean => {
  const [inner, outer] = [key.split('/'), prefix.split('/').slice(0, -1)];
  return inner.length > outer.length && outer.every((part, at) => inner[at] === part);
};

// Reading.

const decideRead = (
  wanted: WantedRequest,
  kind: 'get' | 'head',
  query: ReadonlyMap<string, string>,
  headers: ReadonlyMap<string, string>,
  facts: SigningFacts,
): AllowedRequest => {
  if (wanted.key === '') refuse('A bucket is not looked at, only listed below a prefix.');
  onlyQuery(query);
  const operation = checkOperation(query, kind === 'get' ? 'GetObject' : 'HeadObject');
  const checked = onlyHeaders(headers, READ_HEADERS);
  const key = checkKey(wanted.key);
  if (!facts.readable.some((prefix) => isBelow(key, prefix)))
    refuse('The key does not lie below what this node may read: its own backups, and runs that it was granted.');
  return {
    kind,
    method: kind === 'get' ? 'GET' : 'HEAD',
    key,
    query: operation,
    headers: checked,
    payloadSha256: wanted.payload_sha256,
    contentLength: null,
    slot: null,
  };
};

const decideList = (
  wanted: WantedRequest,
  query: ReadonlyMap<string, string>,
  headers: ReadonlyMap<string, string>,
  facts: SigningFacts,
): AllowedRequest => {
  onlyQuery(query, ...LIST_QUERY);
  onlyHeaders(headers, {});
  if (query.get('list-type') !== '2') refuse('Listings are those of version 2 (list-type=2).');
  checkOperation(query, 'ListObjectsV2');
  const prefix = query.get('prefix') ?? '';
  if (
    !KEY.test(prefix) ||
    prefix
      .split('/')
      .slice(0, -1)
      .some((part) => part === '' || part === '.' || part === '..')
  )
    refuse('A listing needs a prefix, of the characters that keys of backups have.');
  if (Buffer.byteLength(prefix) > MAX_KEY_BYTES) refuse(`The prefix is longer than ${MAX_KEY_BYTES} bytes.`);
  if (!facts.readable.some((one) => isBelow(prefix, one)))
    refuse(
      'The prefix of the listing is not below what this node may read: its own backups, and runs that it was granted.',
    );
  const delimiter = query.get('delimiter');
  if (delimiter !== undefined && delimiter !== '/') refuse('The only delimiter of a listing is /.');
  const most = query.get('max-keys');
  if (most !== undefined && !/^(?:[1-9]\d{0,2}|1000)$/.test(most)) refuse('max-keys is a number from 1 to 1000.');
  const encoding = query.get('encoding-type');
  if (encoding !== undefined && encoding !== 'url') refuse('The only encoding-type of a listing is url.');
  return {
    kind: 'list',
    method: 'GET',
    key: '',
    query: [...query],
    headers: {},
    payloadSha256: wanted.payload_sha256,
    contentLength: null,
    slot: null,
  };
};

// Writing.

const OBJECTS: readonly RunObject[] = ['archive', 'manifest', 'statement'];
/** The keys that an attempt may write. */
export const keysOf = (prefix: string, encrypted: boolean): string[] => {
  const names = objectNames(encrypted);
  return OBJECTS.map((object) => `${prefix}${names[object]}`);
};

const mayWrite = (facts: SigningFacts, now: number): WritingFacts => {
  const { writing } = facts;
  if (writing === null) return refuse("The run is another node's: it can be read, not written.");
  if (writing.ended !== null) return refuse(writing.ended);
  if (now >= writing.deadlineAt) return refuse('The time of the run is over: nothing is written any more.');
  return writing;
};

const decidePut = (
  wanted: WantedRequest,
  query: ReadonlyMap<string, string>,
  headers: ReadonlyMap<string, string>,
  facts: SigningFacts,
  now: number,
): AllowedRequest => {
  if (wanted.key === '') refuse('Buckets are neither made nor changed.');
  onlyQuery(query);
  const operation = checkOperation(query, 'PutObject');
  const checked = onlyHeaders(headers, { ...UPLOAD_HEADERS, 'if-none-match': /^\*$/ });
  const key = checkKey(wanted.key);
  const writing = mayWrite(facts, now);
  if (!keysOf(writing.prefix, writing.encrypted).includes(key))
    refuse('The key is none of the objects of the running attempt.');
  if (!facts.conditionalWrites)
    refuse('The destination knows no create-only writes. Ask the server to open an upload of the object.');
  if (checked['if-none-match'] !== '*') refuse('Objects are created, never replaced: send If-None-Match: *.');
  checkWrittenLength(wanted, writing, key);
  checkLockChecksum(wanted, checked, facts);
  return {
    kind: 'put',
    method: 'PUT',
    key,
    query: operation,
    headers: checked,
    payloadSha256: wanted.payload_sha256,
    contentLength: wanted.content_length,
    slot: key,
  };
};

const decidePart = (
  wanted: WantedRequest,
  query: ReadonlyMap<string, string>,
  headers: ReadonlyMap<string, string>,
  facts: SigningFacts,
  now: number,
): AllowedRequest => {
  onlyQuery(query, ...PART_QUERY);
  const operation = checkOperation(query, 'UploadPart');
  const checked = onlyHeaders(headers, UPLOAD_HEADERS);
  const [uploadId, number] = [query.get('uploadId'), query.get('partNumber')];
  if (uploadId === undefined || number === undefined)
    return refuse('A part needs both its uploadId and its partNumber.');
  if (!/^[1-9]\d{0,4}$/.test(number) || Number(number) > MAX_PARTS)
    refuse(`The number of a part is one of 1 to ${MAX_PARTS}.`);
  const key = checkKey(wanted.key);
  const writing = mayWrite(facts, now);
  const upload = writing.uploads.get(uploadId);
  if (upload === undefined) return refuse('The upload is none that the server opened for the running attempt.');
  if (upload.closed) refuse('The upload is completed: it takes no more parts.');
  if (upload.key !== key) refuse('The upload is one of another key.');
  const slot = `${uploadId}#${number}`;
  checkWrittenLength(wanted, writing, slot);
  checkLockChecksum(wanted, checked, facts);
  return {
    kind: 'part',
    method: 'PUT',
    key,
    query: [['partNumber', number], ['uploadId', uploadId], ...operation],
    headers: checked,
    payloadSha256: wanted.payload_sha256,
    contentLength: wanted.content_length,
    slot,
  };
};

const checkWrittenLength = ({ content_length: length }: WantedRequest, writing: WritingFacts, slot: string): void => {
  if (length > MAX_PUT_BYTES) refuse('S3 takes at most 5 GiB in one request.');
  const more = Math.max(0, length - writing.written.of(slot));
  if (writing.written.total + more > writing.maxBytes)
    refuse(`The run would grow beyond the ${writing.maxBytes} bytes that it may write.`);
};
/** The server adds it itself where it knows the hash of the body. */
const checkLockChecksum = (wanted: WantedRequest, headers: Record<string, string>, facts: SigningFacts): void => {
  if (!facts.objectLock || wanted.payload_sha256 !== UNSIGNED_PAYLOAD) return;
  if (!Object.keys(CHECKSUMS).some((name) => headers[name] !== undefined))
    refuse('Objects that are to be locked need a checksum: send the SHA-256 of the body, or content-md5.');
};

/** `Written` for one run. */
export interface WrittenCounter extends Written {
  add(slot: string, bytes: number): void;
}
export const writtenCounter = (): WrittenCounter => {
  const slots = new Map<string, number>();
  let total = 0;
  return {
    get total() {
      return total;
    },
    of: (slot) => slots.get(slot) ?? 0,
    add: (slot, bytes) => {
      const before = slots.get(slot) ?? 0;
      if (bytes <= before) return;
      slots.set(slot, bytes);
      total += bytes - before;
    },
  };
};
