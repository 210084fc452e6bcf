import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { type Readable, Transform } from 'node:stream';
import { bucketAddress } from '@aegis/protocol/backups/bucket-address';
import type { Credentials, S3Destination } from '@aegis/protocol/backups/config';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import type { SigningCredentials } from './sigv4.ts';

/** The AWS SDK as this server uses it: loaded at the first need, with bounds for time and for what an answer may hold, and following no
 *  redirect. */

type Sdk = typeof import('@aws-sdk/client-s3');
let loaded: Promise<Sdk> | undefined;
/** 14 MB of modules that a server without backups to S3 never pays for. */
export const s3Sdk = (): Promise<Sdk> => {
  loaded ??= import('@aws-sdk/client-s3');
  return loaded;
};

export interface S3Bounds {
  connectTimeoutMs: number;
  /** Without a byte from S3. */
  idleTimeoutMs: number;
  /** Of one call, its retries included; transfers of bodies have none. */
  callTimeoutMs: number;
  /** Tries of one call, the first included. */
  attempts: number;
  /** Of an answer that is not an object. A thousand keys of ours have less than half a MiB; parsing a MiB takes up to 0.5 s. */
  maxAnswerBytes: number;
  maxSockets: number;
}
export const DEFAULT_BOUNDS: S3Bounds = {
  connectTimeoutMs: 10_000,
  idleTimeoutMs: 60_000,
  callTimeoutMs: 120_000,
  attempts: 3,
  maxAnswerBytes: 4 * 1024 * 1024,
  maxSockets: 32,
};

export interface OpenClient {
  sdk: Sdk;
  client: S3Client;
  /** Those that hold now; the SDK renews temporary ones before they expire. */
  credentials(): Promise<SigningCredentials>;
}

export const openClient = async (
  destination: S3Destination,
  /** Null: the server's own (environment, profile, instance role). */
  credentials: Credentials | null,
  bounds: S3Bounds,
): Promise<OpenClient> => {
  const sdk = await s3Sdk();
  const client = new sdk.S3Client({
    region: destination.region,
    ...(destination.endpoint === undefined ? {} : { endpoint: destination.endpoint }),
    forcePathStyle: bucketAddress(destination).pathStyle,
    ...(credentials === null ? {} : { credentials: plain(credentials) }),
    requestChecksumCalculation: destination.checksum === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED',
    responseChecksumValidation: destination.checksum === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED',
    followRegionRedirects: false,
    maxAttempts: bounds.attempts,
    requestHandler: handlerOptions(destination, bounds),
  });
  boundAnswers(client, bounds.maxAnswerBytes);
  return {
    sdk,
    client,
    credentials: async () => {
      const { accessKeyId, secretAccessKey, sessionToken } = await client.config.credentials();
      return { accessKeyId, secretAccessKey, sessionToken };
    },
  };
};

/** As the SDK names them. */
export const plain = ({
  access_key_id,
  secret_access_key,
  session_token,
}: Credentials): { accessKeyId: string; secretAccessKey: string; sessionToken?: string } => ({
  accessKeyId: access_key_id,
  secretAccessKey: secret_access_key,
  ...(session_token === undefined ? {} : { sessionToken: session_token }),
});

export const handlerOptions = (
  { ca }: S3Destination,
  { connectTimeoutMs, idleTimeoutMs, maxSockets }: S3Bounds,
): NonNullable<S3ClientConfig['requestHandler']> => ({
  connectionTimeout: connectTimeoutMs,
  socketTimeout: idleTimeoutMs,
  // `timeout`: connections that nobody uses end then.
  httpAgent: new HttpAgent({ keepAlive: true, maxSockets, timeout: idleTimeoutMs }),
  httpsAgent: new HttpsAgent({
    keepAlive: true,
    maxSockets,
    timeout: idleTimeoutMs,
    ...(ca === undefined ? {} : { ca }),
  }),
});

/** The SDK reads an answer whole before it parses it: one without end must not fill the memory. Objects are streams, whose reader counts. */
export const boundAnswers = (client: Pick<S3Client, 'middlewareStack'>, most: number): void => {
  client.middlewareStack.add(
    (next, context) => async (args) => {
      const result = await next(args);
      const response = result.response as { statusCode?: number; body?: Readable };
      const isObject = context.commandName === 'GetObjectCommand' && (response.statusCode ?? 0) < 300;
      if (!isObject && response.body && typeof response.body.pipe === 'function')
        response.body = bounded(response.body, most);
      return result;
    },
    { step: 'deserialize', priority: 'low', name: 'boundAnswers' },
  );
};

export class AnswerTooLong extends Error {
  override readonly name = 'AnswerTooLong';
}
const bounded = (body: Readable, most: number): Readable => {
  let seen = 0;
  const counter = new Transform({
    transform(bytes: Buffer, _encoding, done) {
      seen += bytes.length;
      if (seen > most) {
        body.destroy();
        done(new AnswerTooLong(`an answer of more than ${most} bytes`));
      } else done(null, bytes);
    },
  });
  body.once('error', (error) => counter.destroy(error));
  body.once('close', () => {
    if (!body.readableEnded) counter.destroy(new Error('the answer broke off'));
  });
  return body.pipe(counter);
};
