import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { bucketAddress } from '@aegis/protocol/backups/bucket-address';
import type { Credentials, S3Destination } from '@aegis/protocol/backups/config';
import type { SignedRequest } from '@aegis/protocol/backups/node-endpoints';
import type { PutObjectCommandInput, S3Client } from '@aws-sdk/client-s3';
import type { Clock } from '../../platform/clock.ts';
import type { AllowedRequest } from '../signing.ts';
import { DEFAULT_BOUNDS, type OpenClient, openClient, type S3Bounds } from './client.ts';
import { s3Failure } from './failures.ts';
import { type Link, requestSigner } from './request-signer.ts';
import type { SigningCredentials } from './sigv4.ts';

/** One S3 destination as the server uses it: all calls that it makes, and the signatures that it gives. Errors are AegisErrors
 *  backups.destination_failed or destination_full, with a sentence that says what to do. */

export interface StoredPart {
  number: number;
  etag: string;
  bytes: number;
  /** Base64, where S3 keeps it. */
  sha256: string | undefined;
}
export interface StoredObject {
  bytes: number;
  /** With its quotes. */
  etag: string;
  /** Milliseconds. */
  modifiedAt: number;
}
export interface OpenUpload {
  key: string;
  uploadId: string;
  /** Milliseconds. */
  initiatedAt: number;
}

/** Of a thousand each. A server that lists without end is no reason to listen without end. */
const MOST_PAGES = 10_000;
/** Of one run there are three objects of each attempt, and of each their versions. */
const MOST_REMOVED = 100_000;

type ObjectParams = Pick<
  PutObjectCommandInput,
  'Bucket' | 'Key' | 'ContentType' | 'StorageClass' | 'ChecksumAlgorithm'
> &
  Pick<PutObjectCommandInput, 'ObjectLockMode' | 'ObjectLockRetainUntilDate'>;

export interface S3StoreOptions {
  clock: Clock;
  bounds?: Partial<S3Bounds>;
}

export const s3Store = (destination: S3Destination, credentials: Credentials | null, options: S3StoreOptions) => {
  const bounds: S3Bounds = { ...DEFAULT_BOUNDS, ...options.bounds };
  const address = bucketAddress(destination);
  const { bucket: Bucket } = destination;
  let opening: Promise<OpenClient> | undefined;
  const open = (): Promise<OpenClient> => {
    opening ??= openClient(destination, credentials, bounds);
    return opening;
  };

  type Send = S3Client['send'];
  /** One call, bounded in time with its retries. `doing` as in "<doing> failed". */
  const call = async <T>(
    doing: string,
    work: (s3: { send: Send; sdk: OpenClient['sdk'] }, signal: AbortSignal) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> => {
    const timeout = AbortSignal.timeout(bounds.callTimeoutMs);
    const both = signal ? AbortSignal.any([signal, timeout]) : timeout;
    try {
      const { client, sdk } = await open();
      return await work({ send: client.send.bind(client) as Send, sdk }, both);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw s3Failure(timeout.aborted ? { name: 'TimeoutError' } : error, doing, destination);
    }
  };

  const lockMode = destination.object_lock_mode === 'compliance' ? ('COMPLIANCE' as const) : ('GOVERNANCE' as const);
  const lock = (lockedUntil: number | null) =>
    destination.object_lock_days === undefined || lockedUntil === null
      ? {}
      : {
          ObjectLockMode: lockMode,
          ObjectLockRetainUntilDate: new Date(lockedUntil),
        };
  const storage = () =>
    destination.storage_class === undefined ? {} : { StorageClass: destination.storage_class as 'STANDARD' };
  const locks = destination.object_lock_days !== undefined;

  const signer = requestSigner(destination);
  const ownCredentials = async (doing: string): Promise<SigningCredentials> => {
    try {
      return await (await open()).credentials();
    } catch (error) {
      throw s3Failure(error, doing, destination);
    }
  };

  const pages = async function* <T>(
    one: (token: string | undefined) => Promise<{ items: T[]; next: string | undefined }>,
  ): AsyncGenerator<T, void, undefined> {
    let token: string | undefined;
    const seen = new Set<string>();
    do {
      const { items, next } = await one(token);
      yield* items;
      if (next !== undefined && (seen.has(next) || seen.size >= MOST_PAGES))
        throw s3Failure({ name: 'EndlessListing' }, 'Listing', destination);
      if (next !== undefined) seen.add(next);
      token = next;
    } while (token !== undefined);
  };

  return {
    destination,
    tls: address.tls,
    /** @param lockedUntil milliseconds; counts where the destination locks objects */
    createUpload: (key: string, lockedUntil: number | null = null): Promise<string> =>
      call('Opening a multipart upload', async ({ send, sdk }, abortSignal) => {
        const { UploadId } = await send(
          new sdk.CreateMultipartUploadCommand({
            Bucket,
            Key: key,
            ContentType: 'application/octet-stream',
            ...storage(),
            ...lock(lockedUntil),
            ...(locks ? { ChecksumAlgorithm: 'SHA256' as const } : {}),
          }),
          { abortSignal },
        );
        if (!UploadId || UploadId.length > 1024)
          throw Object.assign(new Error('no upload id'), { $metadata: { httpStatusCode: 200 } });
        return UploadId;
      }),
    /** Null: there is no such upload (any more). By number. */
    listParts: async (key: string, UploadId: string): Promise<StoredPart[] | null> => {
      try {
        const parts: StoredPart[] = [];
        const listing = pages((PartNumberMarker) =>
          call('Listing the parts of an upload', async ({ send, sdk }, abortSignal) => {
            const answer = await send(new sdk.ListPartsCommand({ Bucket, Key: key, UploadId, PartNumberMarker }), {
              abortSignal,
            });
            const items = (answer.Parts ?? []).map((part) => ({
              number: part.PartNumber ?? 0,
              etag: part.ETag ?? '',
              bytes: part.Size ?? 0,
              sha256: part.ChecksumSHA256,
            }));
            return { items, next: answer.IsTruncated ? answer.NextPartNumberMarker : undefined };
          }),
        );
        for await (const part of listing) if (parts.push(part) > 10_000) break;
        return parts;
      } catch (error) {
        if (goneDetails(error)) return null;
        throw error;
      }
    },
    /** @returns false when there is no such upload (any more): perhaps it was completed before */
    completeUpload: async (key: string, UploadId: string, parts: readonly StoredPart[]): Promise<boolean> => {
      try {
        await call('Completing a multipart upload', ({ send, sdk }, abortSignal) =>
          send(
            new sdk.CompleteMultipartUploadCommand({
              Bucket,
              Key: key,
              UploadId,
              MultipartUpload: {
                Parts: parts.map(({ number, etag, sha256 }) => ({
                  PartNumber: number,
                  ETag: etag,
                  ChecksumSHA256: sha256,
                })),
              },
            }),
            { abortSignal },
          ),
        );
        return true;
      } catch (error) {
        if (goneDetails(error)) return false;
        throw error;
      }
    },
    /** What is not there (any more) counts as aborted. */
    abortUpload: async (key: string, UploadId: string): Promise<void> => {
      try {
        await call('Aborting a multipart upload', ({ send, sdk }, abortSignal) =>
          send(new sdk.AbortMultipartUploadCommand({ Bucket, Key: key, UploadId }), { abortSignal }),
        );
      } catch (error) {
        if (!goneDetails(error)) throw error;
      }
    },
    listUploads: (prefix: string): AsyncGenerator<OpenUpload, void, undefined> =>
      pages((token) =>
        call('Listing multipart uploads', async ({ send, sdk }, abortSignal) => {
          const [KeyMarker, UploadIdMarker] = token === undefined ? [] : (JSON.parse(token) as [string, string]);
          const answer = await send(
            new sdk.ListMultipartUploadsCommand({ Bucket, Prefix: prefix, KeyMarker, UploadIdMarker }),
            { abortSignal },
          );
          const items = (answer.Uploads ?? []).map(({ Key = '', UploadId = '', Initiated }) => ({
            key: Key,
            uploadId: UploadId,
            initiatedAt: Initiated?.getTime() ?? Number.POSITIVE_INFINITY,
          }));
          const next = JSON.stringify([answer.NextKeyMarker ?? '', answer.NextUploadIdMarker ?? '']);
          return { items, next: answer.IsTruncated ? next : undefined };
        }),
      ),
    head: async (key: string): Promise<StoredObject | null> => {
      try {
        return await call('Looking at an object', async ({ send, sdk }, abortSignal) => {
          const {
            ContentLength = -1,
            ETag = '',
            LastModified,
          } = await send(new sdk.HeadObjectCommand({ Bucket, Key: key }), { abortSignal });
          return { bytes: ContentLength, etag: ETag, modifiedAt: LastModified?.getTime() ?? 0 };
        });
      } catch (error) {
        if (goneDetails(error) || isBare(error)) return null;
        throw error;
      }
    },
    /** A stream, whose reader bounds it, and its length where that is said. Null: there is no such object.
     *  @param range of bytes, both included */
    get: async (
      key: string,
      { range, signal }: { range?: readonly [start: number, end: number]; signal?: AbortSignal } = {},
    ): Promise<{ bytes: number | null; body: Readable } | null> => {
      try {
        return await call(
          'Reading an object',
          async ({ send, sdk }) => {
            const { Body, ContentLength = null } = await send(
              new sdk.GetObjectCommand({
                Bucket,
                Key: key,
                ...(range ? { Range: `bytes=${range[0]}-${range[1]}` } : {}),
              }),
              signal ? { abortSignal: signal } : {},
            );
            return { bytes: ContentLength, body: Body as Readable };
          },
          signal,
        );
      } catch (error) {
        if (goneDetails(error)) return null;
        throw error;
      }
    },
    /** @returns false: there is such an object, and it should have been created */
    put: async (
      key: string,
      body: Buffer,
      { createOnly, lockedUntil = null }: { createOnly: boolean; lockedUntil?: number | null },
    ): Promise<boolean> => {
      try {
        await call('Writing an object', ({ send, sdk }, abortSignal) =>
          send(
            new sdk.PutObjectCommand({
              Bucket,
              Key: key,
              Body: body,
              ContentType: 'application/octet-stream',
              ...(createOnly ? { IfNoneMatch: '*' } : {}),
              ...storage(),
              ...lock(lockedUntil),
              ...(locks ? { ContentMD5: createHash('md5').update(body).digest('base64') } : {}),
            }),
            { abortSignal },
          ),
        );
        return true;
      } catch (error) {
        if (detailsOf(error).s3_status === 412) return false;
        throw error;
      }
    },
    list: (prefix: string): AsyncGenerator<{ key: string; bytes: number }, void, undefined> =>
      pages((ContinuationToken) =>
        call('Listing objects', async ({ send, sdk }, abortSignal) => {
          const answer = await send(new sdk.ListObjectsV2Command({ Bucket, Prefix: prefix, ContinuationToken }), {
            abortSignal,
          });
          const items = (answer.Contents ?? []).map(({ Key = '', Size = 0 }) => ({ key: Key, bytes: Size }));
          return { items, next: answer.IsTruncated ? answer.NextContinuationToken : undefined };
        }),
      ),
    /** Removes everything below a prefix, each version where the bucket has them. One request for each: some servers know DeleteObjects
     *  only with headers that others do not take.
     *  @param first these go before all others, and where one is locked nothing else is removed
     *  @returns keys that object lock still holds */
    deleteBelow: async (
      prefix: string,
      first: (key: string) => boolean = () => false,
    ): Promise<{ removed: number; locked: string[] }> => {
      if (!prefix.endsWith('/')) throw new RangeError('a prefix ends with a slash'); // or it would take its neighbours along
      const versions = pages((token) =>
        call('Listing versions of objects', async ({ send, sdk }, abortSignal) => {
          const [KeyMarker, VersionIdMarker] = token === undefined ? [] : (JSON.parse(token) as [string, string]);
          const answer = await send(
            new sdk.ListObjectVersionsCommand({ Bucket, Prefix: prefix, KeyMarker, VersionIdMarker }),
            { abortSignal },
          );
          const items = [...(answer.Versions ?? []), ...(answer.DeleteMarkers ?? [])].map(
            ({ Key = '', VersionId }) => ({
              key: Key,
              version: VersionId,
            }),
          );
          const next = JSON.stringify([answer.NextKeyMarker ?? '', answer.NextVersionIdMarker ?? '']);
          return { items, next: answer.IsTruncated ? next : undefined };
        }),
      );
      const all: { key: string; version: string | undefined }[] = [];
      let listed = 0;
      for await (const one of versions) {
        if (++listed > MOST_REMOVED) throw s3Failure({ name: 'EndlessListing' }, 'Listing', destination);
        if (one.key.startsWith(prefix)) all.push(one);
      }
      all.sort((a, b) => Number(first(b.key)) - Number(first(a.key)));
      const locked = new Set<string>();
      let removed = 0;
      for (const { key, version } of all) {
        if (locked.size > 0 && !first(key) && [...locked].some(first)) break;
        try {
          await call('Removing an object', ({ send, sdk }, abortSignal) =>
            send(
              new sdk.DeleteObjectCommand({
                Bucket,
                Key: key,
                // 'null' too: without it a bucket that got versions later would only hide what it had before.
                ...(version === undefined ? {} : { VersionId: version }),
              }),
              { abortSignal },
            ),
          );
          removed++;
        } catch (error) {
          if (goneDetails(error)) continue;
          if (detailsOf(error).s3_status !== 403 || !locks) throw error;
          locked.add(key);
        }
      }
      return { removed, locked: [...locked] };
    },
    /** What `allow` has let through. @param lockedUntil milliseconds */
    sign: async (requests: readonly AllowedRequest[], lockedUntil: number | null = null): Promise<SignedRequest[]> => {
      const own = await ownCredentials('Signing');
      const now = options.clock.now();
      return requests.map((allowed) => signer.sign(allowed, own, lockedUntil, now));
    },
    /** A link for one request, with nothing signed but the host: for whoever holds it, until it expires. */
    presign: async (
      method: 'GET' | 'PUT',
      key: string,
      expiresSec: number,
      query: readonly (readonly [string, string])[] = [],
    ): Promise<Link> =>
      signer.link({ method, key, query }, await ownCredentials('Signing'), expiresSec, options.clock.now()),
    /** What `get` gave, with failures of the transfer said as those of a call. */
    chunks: async function* (body: Readable): AsyncGenerator<Buffer, void, undefined> {
      try {
        yield* body as AsyncIterable<Buffer>;
      } catch (error) {
        throw s3Failure(error, 'Reading an object', destination);
      }
    },
    /** For what is sent as it comes (upload-stream.ts): the client, and what an object is written with. Failures are the caller's. */
    writer: async (): Promise<{ client: S3Client; object: (key: string, until: number | null) => ObjectParams }> => ({
      client: (await open()).client,
      object: (key, until) => ({
        Bucket,
        Key: key,
        ContentType: 'application/octet-stream',
        ...storage(),
        ...lock(until),
        ...(locks ? { ChecksumAlgorithm: 'SHA256' as const } : {}),
      }),
    }),
    hasObjectLock: async (): Promise<boolean> => {
      try {
        return await call("Reading the bucket's object lock", async ({ send, sdk }, abortSignal) => {
          const { ObjectLockConfiguration } = await send(new sdk.GetObjectLockConfigurationCommand({ Bucket }), {
            abortSignal,
          });
          return ObjectLockConfiguration?.ObjectLockEnabled === 'Enabled';
        });
      } catch (error) {
        if (goneDetails(error)) return false;
        throw error;
      }
    },
    /** Locks an object until then at least. Some servers forget the lock that an upload in parts was opened with. */
    ensureLocked: async (key: string, until: number): Promise<void> => {
      const held = await call('Reading the lock of an object', async ({ send, sdk }, abortSignal) => {
        const { ObjectLockRetainUntilDate } = await send(new sdk.HeadObjectCommand({ Bucket, Key: key }), {
          abortSignal,
        });
        return ObjectLockRetainUntilDate?.getTime() ?? 0;
      });
      if (held >= until) return;
      await call('Locking an object', ({ send, sdk }, abortSignal) =>
        send(
          new sdk.PutObjectRetentionCommand({
            Bucket,
            Key: key,
            Retention: { Mode: lockMode, RetainUntilDate: new Date(until) },
          }),
          { abortSignal },
        ),
      );
    },
    bounds,
    close: async (): Promise<void> => {
      if (opening) (await opening.catch(() => null))?.client.destroy();
    },
  };
};
export type S3Store = ReturnType<typeof s3Store>;

const detailsOf = (error: unknown): { s3_code?: string; s3_status?: number } =>
  (error as { details?: { s3_code?: string; s3_status?: number } }).details ?? {};
const GONE = new Set(['NoSuchKey', 'NoSuchUpload', 'NoSuchVersion', 'ObjectLockConfigurationNotFoundError']);
/** What was asked for is not there, while the bucket is. A 404 of something else, a proxy perhaps, says nothing of it. */
const goneDetails = (error: unknown): boolean => {
  const { s3_code, s3_status } = detailsOf(error);
  return s3_status === 404 && GONE.has(s3_code ?? '');
};
/** All that is known of an answer that may not have a body. */
const isBare = (error: unknown): boolean => detailsOf(error).s3_code === 'NotFound';
