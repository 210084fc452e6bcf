import type { WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import { type NodeRun, sha256 } from './backups-s3-support.ts';

/** Requests that are not signed, by what is wrong with them, and the signature that is nearest to each. */

export interface Stage {
  node: { uid: string };
  bucket: string;
  /** Under way, with an open upload of its archive. */
  run: NodeRun;
  upload: { upload_id: string; key: string };
  /** Another one of the node, under way too. */
  second: NodeRun;
  /** Of another node, ended well. */
  foreign: NodeRun;
  /** Of the node, ended badly. */
  failed: NodeRun;
}
export const BODY = Buffer.from('body');
/** Of the archive, as configured; with manifest and statement, whatever a run writes. */
export const ARCHIVE_BYTES = 20 * 1024 * 1024;
export const MAX_BYTES = ARCHIVE_BYTES + 1024 ** 3;

export interface Hostile {
  /** As the run under way, unless said otherwise. */
  as?: 'second' | 'failed';
  wanted: () => Partial<WantedRequest>;
  sentence: string;
  /** What is signed, and nearest to it. The hostile request is sent with that signature, its own headers in place of those. */
  near?: 'part' | 'put' | 'get' | 'list';
  /** A signed header that is left away then. */
  without?: string;
  /** radosgw does not mind that this header is not signed (Amazon does): it changes the node's own new object and nothing else. */
  heeded?: true;
}
const NOT_OBJECT = 'The key is none of the objects of the running attempt.';
const NOT_READABLE =
  'The key does not lie below what this node may read: its own backups, and runs that it was granted.';
const NOT_LISTABLE =
  'The prefix of the listing is not below what this node may read: its own backups, and runs that it was granted.';
const BAD_KEY = 'The key holds characters that no key of a backup has.';
const BAD_SEGMENT = 'The key has an empty segment, or one that would lead elsewhere.';
const LOCK = 'Object lock is set by the server alone.';
const ACL = 'Access lists are neither read nor changed.';
const TAGS = 'Tags are neither read nor changed.';
const OWN_HEADERS = 'The server itself sets host, date, length, payload hash and authorization.';
const WHOLE_BODIES = 'Bodies are sent as they are, without chunks or trailers.';

export const nearest = (stage: Stage) => ({
  part: (): Partial<WantedRequest> => ({
    method: 'PUT',
    key: stage.upload.key,
    query: { uploadId: stage.upload.upload_id, partNumber: '1' },
    content_length: BODY.length,
    payload_sha256: sha256(BODY),
  }),
  put: (): Partial<WantedRequest> => ({
    method: 'PUT',
    key: stage.run.key('statement'),
    headers: { 'if-none-match': '*' },
    content_length: BODY.length,
    payload_sha256: sha256(BODY),
  }),
  get: (): Partial<WantedRequest> => ({ key: `fleet/a/${stage.node.uid}/x` }),
  list: (): Partial<WantedRequest> => ({ query: { 'list-type': '2', prefix: `fleet/a/${stage.node.uid}/` } }),
});

export const hostileRequests = (stage: Stage): Readonly<Record<string, Hostile>> => {
  const near = nearest(stage);
  const put =
    (more: Partial<WantedRequest> = {}) =>
    () => ({ ...near.put(), ...more });
  const part =
    (query: Record<string, string> = {}, more: Partial<WantedRequest> = {}) =>
    () => ({
      ...near.part(),
      query: { ...near.part().query, ...query },
      ...more,
    });
  const putWith = (headers: Record<string, string>) => () => ({
    ...near.put(),
    headers: { 'if-none-match': '*', ...headers },
  });

  return {
    'a put at another prefix': { wanted: put({ key: 'elsewhere/statement.json' }), sentence: NOT_OBJECT, near: 'put' },
    "a put among another node's objects": {
      wanted: () => ({ ...near.put(), key: stage.foreign.key('statement') }),
      sentence: NOT_OBJECT,
      near: 'put',
    },
    'a put beside the three objects': {
      wanted: () => ({ ...near.put(), key: `${stage.run.grant.prefix}more` }),
      sentence: NOT_OBJECT,
      near: 'put',
    },
    'a put below an object': {
      wanted: () => ({ ...near.put(), key: `${stage.run.key('statement')}/x` }),
      sentence: NOT_OBJECT,
      near: 'put',
    },
    'a put of another attempt': {
      wanted: () => ({ ...near.put(), key: stage.run.key('statement').replace('/1/', '/2/') }),
      sentence: NOT_OBJECT,
      near: 'put',
    },
    'a put that replaces': {
      wanted: put({ headers: {} }),
      near: 'put',
      without: 'if-none-match',
      sentence: 'Objects are created, never replaced: send If-None-Match: *.',
    },
    'a put with another condition': {
      wanted: put({ headers: { 'if-none-match': '"etag"' } }),
      sentence: 'The header if-none-match does not have a value that is allowed.',
      near: 'put',
    },
    'a put with If-Match': {
      wanted: putWith({ 'if-match': '"etag"' }),
      near: 'put',
      sentence: 'The request has a header that is not on the list of those allowed.',
    },
    'a key with a parent segment': {
      wanted: () => ({ ...near.put(), key: `${stage.run.grant.prefix}../statement.json` }),
      sentence: BAD_SEGMENT,
      near: 'put',
    },
    'a key with an empty segment': {
      wanted: () => ({ ...near.put(), key: `${stage.run.grant.prefix}/statement.json` }),
      sentence: BAD_SEGMENT,
      near: 'put',
    },
    'a key with an encoded slash': {
      wanted: () => ({ ...near.put(), key: `${stage.run.grant.prefix}%2e%2e%2fstatement.json` }),
      sentence: BAD_KEY,
      near: 'put',
    },
    'a key with a line break': {
      wanted: () => ({ ...near.put(), key: `${stage.run.grant.prefix}\nhost:evil` }),
      sentence: BAD_KEY,
      near: 'put',
    },
    'a key with a NUL': { wanted: () => ({ key: `fleet/a/${stage.node.uid}/\0` }), sentence: BAD_KEY },
    'no key: a new bucket': {
      wanted: put({ key: '' }),
      sentence: 'Buckets are neither made nor changed.',
      near: 'put',
    },
    'a copy of an object': {
      wanted: () => putWith({ 'x-amz-copy-source': `/${stage.bucket}/${stage.foreign.key('archive')}` })(),
      near: 'put',
      sentence: 'Objects are not copied.',
    },
    'a part that copies': {
      wanted: () =>
        part({}, { headers: { 'x-amz-copy-source': `/${stage.bucket}/${stage.foreign.key('archive')}` } })(),
      sentence: 'Objects are not copied.',
    },
    'an access list': { wanted: putWith({ 'x-amz-acl': 'public-read' }), near: 'put', heeded: true, sentence: ACL },
    'a grant': { wanted: putWith({ 'x-amz-grant-read': 'uri="everyone"' }), near: 'put', sentence: ACL },
    'the access list of an object': {
      wanted: () => ({ ...near.put(), query: { acl: '' } }),
      sentence: ACL,
      near: 'put',
    },
    'tags in a header': { wanted: putWith({ 'x-amz-tagging': 'a=b' }), near: 'put', heeded: true, sentence: TAGS },
    'tags of an object': { wanted: put({ query: { tagging: '' } }), sentence: TAGS, near: 'put' },
    'a lock': {
      wanted: putWith({
        'x-amz-object-lock-mode': 'COMPLIANCE',
        'x-amz-object-lock-retain-until-date': '2100-01-01T00:00:00Z',
      }),
      near: 'put',
      sentence: LOCK,
    },
    'a legal hold': { wanted: putWith({ 'x-amz-object-lock-legal-hold': 'ON' }), near: 'put', sentence: LOCK },
    'going round a lock': {
      wanted: () => ({ ...near.put(), headers: { 'x-amz-bypass-governance-retention': 'true' } }),
      near: 'put',
      heeded: true,
      sentence: LOCK,
    },
    'the retention of an object': { wanted: put({ query: { retention: '' } }), sentence: LOCK, near: 'put' },
    'another storage class': {
      wanted: putWith({ 'x-amz-storage-class': 'GLACIER' }),
      near: 'put',
      sentence: "The storage class is the destination's, and set by the server.",
    },
    'encryption with a key of its own': {
      wanted: putWith({ 'x-amz-server-side-encryption-customer-key': 'a2V5' }),
      near: 'put',
      sentence: "Encryption at the server's side is the bucket's own matter.",
    },
    metadata: {
      wanted: putWith({ 'x-amz-meta-x': 'y' }),
      near: 'put',
      heeded: true,
      sentence: 'Objects have no metadata of their own.',
    },
    'a redirect': {
      wanted: putWith({ 'x-amz-website-redirect-location': 'https://example.com' }),
      near: 'put',
      heeded: true,
      sentence: 'Objects do not redirect.',
    },
    'a host of its own': { wanted: putWith({ host: 'evil.example' }), near: 'put', sentence: OWN_HEADERS },
    'a date of its own': { wanted: putWith({ 'x-amz-date': '20300101T000000Z' }), near: 'put', sentence: OWN_HEADERS },
    'a security token': { wanted: putWith({ 'x-amz-security-token': 'x' }), near: 'put', sentence: OWN_HEADERS },
    'a header with a line break': {
      wanted: putWith({ 'content-type': 'a\nx-amz-acl:public-read' }),

      sentence: 'A header holds characters that do not belong there.',
    },
    'a header in capitals': {
      wanted: putWith({ 'X-Amz-Acl': 'public-read' }),
      near: 'put',
      heeded: true,
      sentence: 'Names of headers are to be in lower case.',
    },
    'another content type': {
      wanted: putWith({ 'content-type': 'text/html' }),
      near: 'put',
      heeded: true,
      sentence: 'The header content-type does not have a value that is allowed.',
    },
    'a header that nobody knows': {
      wanted: putWith({ 'x-amz-new-thing': '1' }),
      near: 'put',
      heeded: true,
      sentence: 'The request has a header that is not on the list of those allowed.',
    },
    'signatures by chunk': {
      wanted: put({ payload_sha256: 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD' }),
      near: 'put',
      sentence: 'Chunk-wise signatures (STREAMING-…) are not made. Send the SHA-256 of the whole body.',
    },
    'chunks with a trailer': {
      wanted: put({ payload_sha256: 'STREAMING-UNSIGNED-PAYLOAD-TRAILER' }),
      near: 'put',
      sentence: 'Chunk-wise signatures (STREAMING-…) are not made. Send the SHA-256 of the whole body.',
    },
    'chunks by a header': {
      wanted: putWith({ 'content-encoding': 'aws-chunked' }),
      near: 'put',
      heeded: true,
      sentence: WHOLE_BODIES,
    },
    'a trailer': {
      wanted: putWith({ 'x-amz-trailer': 'x-amz-checksum-crc32' }),
      near: 'put',
      heeded: true,
      sentence: WHOLE_BODIES,
    },
    'an unsigned body': {
      wanted: put({ payload_sha256: 'UNSIGNED-PAYLOAD' }),
      near: 'put',
      sentence: 'Nothing is written without the SHA-256 of its body.',
    },
    'a part without a body': {
      wanted: part({}, { content_length: 0, payload_sha256: sha256('') }),
      sentence: 'Nothing is written that is empty.',
    },
    'a body that is said to be empty': {
      wanted: put({ payload_sha256: sha256('') }),
      sentence: 'Nothing is written that is empty.',
    },
    'an unsigned read without TLS': {
      wanted: () => ({ ...near.get(), payload_sha256: 'UNSIGNED-PAYLOAD' }),
      sentence: 'UNSIGNED-PAYLOAD is for destinations with TLS only. Send the SHA-256 of the body.',
    },
    'a hash that is none': {
      wanted: put({ payload_sha256: 'A'.repeat(64) }),
      near: 'put',
      sentence: 'The payload hash must be 64 hexadecimal digits in lower case.',
    },
    'a string to sign in place of a hash': {
      wanted: put({ payload_sha256: 'AWS4-HMAC-SHA256\n20300101T000000Z\n' }),

      sentence: 'The payload hash must be 64 hexadecimal digits in lower case.',
    },
    'a delete': {
      wanted: () => ({ method: 'DELETE', key: stage.run.key('archive') }),
      sentence: 'Nodes do not delete: retention does, on the server.',
      near: 'get',
    },
    'a delete with an upload id': {
      wanted: () => ({ method: 'DELETE', key: stage.upload.key, query: { uploadId: stage.upload.upload_id } }),
      sentence: 'Nodes do not delete: retention does, on the server.',
      near: 'get',
    },
    'a delete of many': {
      wanted: () => ({ method: 'POST', query: { delete: '' } }),
      sentence: 'Nodes do not delete: retention does, on the server.',
      near: 'list',
    },
    'opening an upload': {
      wanted: () => ({ method: 'POST', key: stage.upload.key, query: { uploads: '' } }),
      sentence: 'Multipart uploads are opened and listed by the server: ask it to open one for the run.',
      near: 'get',
    },
    'completing an upload': {
      wanted: () => ({ method: 'POST', key: stage.upload.key, query: { uploadId: stage.upload.upload_id } }),
      sentence: 'Nodes send no POST: the server itself creates, completes and aborts multipart uploads.',
      near: 'get',
    },
    'listing uploads': {
      wanted: () => ({ query: { uploads: '', prefix: `fleet/a/${stage.node.uid}/` } }),
      sentence: 'Multipart uploads are opened and listed by the server: ask it to open one for the run.',
      near: 'list',
    },
    'listing parts': {
      wanted: () => ({ key: stage.upload.key, query: { uploadId: stage.upload.upload_id } }),
      sentence: 'The request has a query parameter that does not belong to its operation.',
      near: 'get',
    },
    'a part of an unknown upload': {
      wanted: part({ uploadId: 'made-up' }),
      sentence: 'The upload is none that the server opened for the running attempt.',
      near: 'part',
    },
    "a part of another run's upload": {
      as: 'second',
      wanted: part(),
      sentence: 'The upload is none that the server opened for the running attempt.',
    },
    'a part under another key': {
      wanted: () => ({ ...near.part(), key: stage.run.key('manifest') }),
      sentence: 'The upload is one of another key.',
      near: 'part',
    },
    'part 0': {
      wanted: part({ partNumber: '0' }),
      sentence: 'The number of a part is one of 1 to 10000.',
      near: 'part',
    },
    'part 10001': {
      wanted: part({ partNumber: '10001' }),
      sentence: 'The number of a part is one of 1 to 10000.',
      near: 'part',
    },
    'part 1e3': {
      wanted: part({ partNumber: '1e3' }),
      sentence: 'The number of a part is one of 1 to 10000.',
      near: 'part',
    },
    'a part without a number': {
      wanted: () => ({ ...near.part(), query: { uploadId: stage.upload.upload_id } }),
      sentence: 'A part needs both its uploadId and its partNumber.',
      near: 'part',
    },
    'a part that is larger than anything': {
      wanted: part({}, { content_length: 5 * 1024 ** 3 + 1 }),
      sentence: 'S3 takes at most 5 GiB in one request.',
    },
    'more than the run may write': {
      wanted: part({}, { content_length: MAX_BYTES + 1 }),
      sentence: `The run would grow beyond the ${MAX_BYTES} bytes that it may write.`,
    },
    "another operation's name": {
      wanted: part({ 'x-id': 'DeleteObject' }),
      sentence: 'The parameter x-id names another operation than UploadPart.',
    },
    'a signature in the query': {
      wanted: part({ 'X-Amz-Signature': 'x' }),
      sentence: 'Parameters of signatures and headers in the query are refused.',
    },
    'a version': {
      wanted: () => ({ ...near.get(), query: { versionId: '1' } }),
      sentence: 'Versions of objects are neither read nor changed.',
      near: 'get',
    },
    'the policy of the bucket': {
      wanted: () => ({ query: { policy: '' } }),
      sentence: 'The settings of a bucket are neither read nor changed.',
      near: 'list',
    },
    'headers of the answer': {
      wanted: () => ({ ...near.get(), query: { 'response-content-type': 'text/html' } }),
      sentence: 'Headers of the answer cannot be chosen.',
      near: 'get',
    },
    'a query that nobody knows': {
      wanted: () => ({ ...near.get(), query: { inventory: '' } }),
      sentence: 'The request has a query parameter that is not on the list of those allowed.',
      near: 'get',
    },
    "another node's object": {
      wanted: () => ({ key: stage.foreign.key('archive') }),
      sentence: NOT_READABLE,
      near: 'get',
    },
    'a neighbour by name': {
      wanted: () => ({ key: `fleet/a/${stage.node.uid}x/secret` }),
      sentence: NOT_READABLE,
      near: 'get',
    },
    "the prefix's own parent": { wanted: () => ({ key: 'fleet/a/other' }), sentence: NOT_READABLE, near: 'get' },
    'the node itself as a key': {
      wanted: () => ({ key: `fleet/a/${stage.node.uid}` }),
      sentence: NOT_READABLE,
      near: 'get',
    },
    "a head of another node's object": {
      wanted: () => ({ method: 'HEAD', key: stage.foreign.key('archive') }),
      sentence: NOT_READABLE,
      near: 'get',
    },
    'a head of the bucket': {
      wanted: () => ({ method: 'HEAD' }),
      sentence: 'A bucket is not looked at, only listed below a prefix.',
      near: 'list',
    },
    'a listing of all': {
      wanted: () => ({ query: { 'list-type': '2' } }),
      sentence: 'A listing needs a prefix, of the characters that keys of backups have.',
      near: 'list',
    },
    'a listing of the fleet': {
      wanted: () => ({ query: { 'list-type': '2', prefix: 'fleet/a/' } }),
      sentence: NOT_LISTABLE,
      near: 'list',
    },
    'a listing by the beginning of the name': {
      wanted: () => ({ query: { 'list-type': '2', prefix: `fleet/a/${stage.node.uid}` } }),
      sentence: NOT_LISTABLE,
      near: 'list',
    },
    'a listing that climbs': {
      wanted: () => ({ query: { 'list-type': '2', prefix: `fleet/a/${stage.node.uid}/../` } }),
      sentence: 'A listing needs a prefix, of the characters that keys of backups have.',
      near: 'list',
    },
    'a listing of version 1': {
      wanted: () => ({ query: { prefix: `fleet/a/${stage.node.uid}/` } }),
      sentence: 'Listings are those of version 2 (list-type=2).',
      near: 'list',
    },
    'a read with a body': {
      wanted: () => ({ ...near.get(), content_length: 4, payload_sha256: sha256(BODY) }),
      sentence: 'A request that only reads has no body.',
    },
    'a hash of a body that is not there': {
      wanted: () => ({ ...near.get(), payload_sha256: sha256(BODY) }),
      sentence: 'The payload hash of a request without a body is wrong.',
    },
    'a put after the end': {
      as: 'failed',
      wanted: () => ({ ...near.put(), key: stage.failed.key('statement') }),
      sentence: 'The run has ended (failed): nothing is written any more.',
    },
  };
};
