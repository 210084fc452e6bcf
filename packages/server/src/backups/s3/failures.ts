import type { S3Destination } from '@aegis/protocol/backups/config';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';

/** What S3 or the way to it answered, as a sentence that says what to do. Nothing of an answer's own text is repeated but its code: it
 *  may be anyone's, and hold what was signed. */

/** What is read of an error of the SDK, whatever it is. */
export interface Failure {
  /** S3's code, or the system's. */
  code: string;
  status: number | undefined;
}

export const failureOf = (error: unknown): Failure => {
  const { name, code, Code, cause, $metadata } = (typeof error === 'object' && error !== null ? error : {}) as {
    name?: unknown;
    code?: unknown;
    Code?: unknown;
    cause?: unknown;
    $metadata?: { httpStatusCode?: unknown };
  };
  const status = typeof $metadata?.httpStatusCode === 'number' ? $metadata.httpStatusCode : undefined;
  const named = [Code, code, name].find((one) => typeof one === 'string' && /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/.test(one));
  if (named === 'Error' && cause !== undefined) return failureOf(cause);
  return { code: typeof named === 'string' ? named : 'unknown', status };
};

const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'Nobody listens there. Is it running, and destination.endpoint right?',
  ENOTFOUND:
    'Its name is not known. Correct destination.endpoint or destination.region, or look after the name servers.',
  EAI_AGAIN: 'The name servers do not answer. It is tried again.',
  EHOSTUNREACH: 'There is no way to it. Look after the network and its firewalls.',
  ENETUNREACH: 'There is no way to it. Look after the network and its firewalls.',
  ECONNRESET: 'It broke the connection off. It is tried again.',
  EPROTO: 'It does not speak TLS as it should. Is destination.endpoint one of http://, without TLS?',
  EPIPE: 'It broke the connection off. It is tried again.',
  ETIMEDOUT: 'It did not answer in time. It is tried again.',
  TimeoutError: 'It did not answer in time. It is tried again.',
  AbortError: 'It did not answer in time. It is tried again.',
  RequestTimeout: 'The transfer stood still for too long. It is tried again.',
  AnswerTooLong: 'Its answer was longer than any answer of S3. Is destination.endpoint that of an S3 server?',
  CredentialsProviderError:
    "The configuration has no credentials, and the server has none of its own (environment, profile, instance role). Give the configuration some with 'aegis backups configs edit'.",
};
const certificate = /CERT|^DEPTH_ZERO|^SELF_SIGNED|^UNABLE_TO|^ERR_TLS|^ERR_SSL/;

const denied =
  'The credentials may not do that there. Allow s3:PutObject, GetObject, DeleteObject, ListBucket, ListBucketMultipartUploads, AbortMultipartUpload and ListMultipartUploadParts below the prefix; or correct the key, if it is a wrong one.';
const region =
  'The bucket lies in another region. Correct destination.region (and destination.endpoint, where it names one).';
const busy = 'It is overloaded or has a fault of its own. It is tried again.';
const full = 'There is no room for more. Make room, or raise the quota.';
const ANSWERS: Readonly<Record<string, string>> = {
  NoSuchBucket: 'The bucket is not there. Create it, or correct destination.bucket.',
  NoSuchUpload: 'The multipart upload is not there any more: it was aborted or completed. Start another attempt.',
  NoSuchKey: 'The object is not there.',
  AccessDenied: denied,
  Forbidden: denied,
  AllAccessDisabled: denied,
  InvalidAccessKeyId: 'It does not know the access key. Correct the credentials of the configuration.',
  SignatureDoesNotMatch: 'It refuses the signature: the secret access key, or destination.region, is not right.',
  ExpiredToken: 'The session token has expired. Give the configuration new credentials.',
  InvalidToken: 'It does not know the session token. Give the configuration new credentials.',
  RequestTimeTooSkewed: "Its clock and this server's are more than 15 minutes apart. Set this server's clock.",
  AuthorizationHeaderMalformed: region,
  PermanentRedirect: region,
  TemporaryRedirect: region,
  MovedPermanently: region,
  IllegalLocationConstraintException: region,
  SlowDown: busy,
  ServiceUnavailable: busy,
  InternalError: busy,
  XAmzContentSHA256Mismatch: 'What arrived was not what was sent. It is tried again.',
  BadDigest: 'What arrived was not what was sent. It is tried again.',
  EntityTooSmall: 'Every part but the last must have 5 MiB. Start another attempt with larger parts.',
  EntityTooLarge: 'The object is larger than it takes.',
  InvalidPart: 'It does not have one of the parts. Send it again.',
  MissingContentLength: "It does not know the SDK's newer checksums. Set destination.checksum = 'when_required'.",
  InvalidStorageClass: 'It does not know the storage class. Correct destination.storage_class.',
  InvalidArgument: 'It does not take a value: destination.storage_class, perhaps, if it does not know that one.',
  InvalidRetentionPeriod: 'It does not take object_lock_days as they are. Correct them.',
  InvalidRequest: 'It does not take the request: an object lock, perhaps, in a bucket that was made without one.',
  NotImplemented: 'It does not know something that is needed. Look at the notes of the probe.',
};
const FULL = new Set(['QuotaExceeded', 'InsufficientCapacity', 'InsufficientStorage', 'XMinioStorageFull', 'ENOSPC']);

const sentenceOf = ({ code, status }: Failure): string => {
  const known = Object.hasOwn(ANSWERS, code) ? ANSWERS[code] : Object.hasOwn(NETWORK, code) ? NETWORK[code] : undefined;
  if (known !== undefined) return known;
  if (FULL.has(code) || status === 507) return full;
  if (certificate.test(code))
    return 'Its certificate is not trusted. Put the PEM of its authority into destination.ca, or correct destination.endpoint.';
  if (status === 301 || status === 307 || status === 308) return region;
  if (status === 403 || status === 401) return denied;
  if (status === 404) return 'What was asked for is not there.';
  if (status === 429 || (status !== undefined && status >= 500)) return busy;
  if (status === 200) return 'Its answer is none of S3. Is destination.endpoint that of an S3 server?';
  return 'Look at the log of the server for more.';
};
const isFull = ({ code, status }: Failure): boolean => FULL.has(code) || status === 507;

export const placeName = ({ bucket, endpoint, region: of }: S3Destination): string =>
  `the bucket '${bucket}' at ${endpoint ?? `Amazon S3 in ${of}`}`;

/** @param doing as in "<doing> failed" */
export const s3Failure = (error: unknown, doing: string, destination: S3Destination): AegisError => {
  if (error instanceof AegisError) return error;
  const failure = failureOf(error);
  const code: ErrorCode = isFull(failure) ? 'backups.destination_full' : 'backups.destination_failed';
  const said = failure.status === undefined ? failure.code : `${failure.code}, ${failure.status}`;
  return new AegisError(code, `${doing} failed for ${placeName(destination)} (${said}). ${sentenceOf(failure)}`, {
    details: { s3_code: failure.code, ...(failure.status === undefined ? {} : { s3_status: failure.status }) },
    cause: withoutAnswer(error),
  });
};

/** The log gets names and numbers: an error of the SDK has the answer's headers and text on it. */
const withoutAnswer = (error: unknown): Error => {
  const { code, status } = failureOf(error);
  const plain = new Error(`S3: ${code}${status === undefined ? '' : ` (${status})`}`);
  if (error instanceof Error && error.stack)
    plain.stack = `${plain.message}\n${error.stack
      .split('\n')
      .filter((line) => /^\s+at /.test(line))
      .join('\n')}`;
  return plain;
};
