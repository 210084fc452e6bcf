import type { WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import { objectNames, type RunObject } from '@aegis/protocol/backups/run';
import { EMPTY_SHA256, UNSIGNED_PAYLOAD } from './s3/sigv4.ts';
import {
  checkHeaders,
  checkOperation,
  checkQueryNames,
  LIST_QUERY,
  onlyHeaders,
  onlyQuery,
  PART_QUERY,
  READ_HEADERS,
  Refusal,
  refuse,
  UPLOAD_HEADERS,
} from './signing-fields.ts';
import type { Written } from './written.ts';

/** Which requests to S3 the server signs for a node: the policy alone, pure. Whatever is not listed here is refused, with a sentence of its
 *  own. What is allowed is made anew of its parts: nothing that a node wrote goes into a signature unseen. */

/** What the decision rests on. Of the run that the node names; its own, or one that it was granted for reading. */
export interface SigningFacts {
  /** Of the destination. */
  tls: boolean;
  /** It knows If-None-Match on PutObject. Where it does not, a node's only way to write is a multipart upload, which the server completes. */
  conditionalWrites: boolean;
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

/** A write is signed for one body alone, and never for none: some S3 servers heed `x-amz-copy-source` although it was not signed, and would
 *  copy another node's archive in place of a body that they need not see (measured on radosgw 16.2; with the hash of a body it refuses). */
const checkPayload = ({ payload_sha256: hash, method, content_length: length }: WantedRequest, facts: SigningFacts) => {
  if (hash.startsWith('STREAMING-'))
    refuse('Chunk-wise signatures (STREAMING-…) are not made. Send the SHA-256 of the whole body.');
  if (hash !== UNSIGNED_PAYLOAD && !SHA256.test(hash))
    refuse('The payload hash must be 64 hexadecimal digits in lower case.');
  if (method === 'PUT') {
    if (hash === UNSIGNED_PAYLOAD) refuse('Nothing is written without the SHA-256 of its body.');
    if (length === 0 || hash === EMPTY_SHA256) refuse('Nothing is written that is empty.');
    return;
  }
  if (hash === UNSIGNED_PAYLOAD && !facts.tls)
    refuse('UNSIGNED-PAYLOAD is for destinations with TLS only. Send the SHA-256 of the body.');
  if (length !== 0) refuse('A request that only reads has no body.');
  if (hash !== EMPTY_SHA256 && hash !== UNSIGNED_PAYLOAD)
    refuse('The payload hash of a request without a body is wrong.');
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
