import type { Credentials, S3Destination } from '@aegis/protocol/backups/config';
import type { SealedCredentials } from '@aegis/protocol/backups/node-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { boundAnswers, handlerOptions, plain, type S3Bounds } from './client.ts';
import { s3Failure } from './failures.ts';

/** Credentials for one run, by STS: a role, narrowed by a policy of the session to what lies below one prefix. */

/** STS takes no shorter one. */
const MIN_SEC = 900;

export type Purpose = 'write' | 'read';
const ACTIONS: Readonly<Record<Purpose, readonly string[]>> = {
  // PutObject stands for the parts of an upload too; the upload itself is opened and completed by the server.
  write: ['s3:PutObject', 's3:AbortMultipartUpload', 's3:ListMultipartUploadParts'],
  read: ['s3:GetObject'],
};

/** @throws AegisError backups.bad_destination: the prefix would match more than it says */
export const sessionPolicy = ({ bucket }: S3Destination, prefix: string, purpose: Purpose): string => {
  // A policy reads these as patterns, and has no way to quote them that all servers know.
  if (/[*?$]/.test(prefix))
    throw new AegisError(
      'backups.bad_destination',
      "destination.prefix may not have * in it where access = 'sts': policies take it for a pattern. Choose another prefix.",
    );
  return JSON.stringify({
    Version: '2012-10-17',
    Statement: [{ Effect: 'Allow', Action: ACTIONS[purpose], Resource: [`arn:aws:s3:::${bucket}/${prefix}*`] }],
  });
};

/** @throws AegisError backups.destination_failed, bad_destination */
export const assumeRole = async (on: {
  destination: S3Destination;
  /** Null: the server's own. */
  credentials: Credentials | null;
  bounds: S3Bounds;
  prefix: string;
  purpose: Purpose;
  /** Shown in the provider's own log: who, and for what. */
  sessionName: string;
}): Promise<SealedCredentials> => {
  const { destination, credentials, bounds } = on;
  const { sts } = destination;
  if (!sts)
    throw new AegisError('backups.bad_destination', "destination.access is not 'sts': there is no role to assume.");
  const policy = sessionPolicy(destination, on.prefix, on.purpose);
  const { AssumeRoleCommand, STSClient } = await import('@aws-sdk/client-sts');
  const endpoint = sts.endpoint ?? destination.endpoint;
  const client = new STSClient({
    region: destination.region,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === null ? {} : { credentials: plain(credentials) }),
    maxAttempts: bounds.attempts,
    requestHandler: handlerOptions(destination, bounds),
  });
  // Clients of every service put their calls together in the same way.
  boundAnswers(client as unknown as Parameters<typeof boundAnswers>[0], bounds.maxAnswerBytes);
  try {
    const { Credentials: given } = await client.send(
      new AssumeRoleCommand({
        RoleArn: sts.role_arn,
        RoleSessionName: on.sessionName.replace(/[^\w+=,.@-]/g, '-').slice(0, 64),
        Policy: policy,
        DurationSeconds: Math.max(MIN_SEC, sts.duration_sec),
      }),
      { abortSignal: AbortSignal.timeout(bounds.callTimeoutMs) },
    );
    if (!given?.AccessKeyId || !given.SecretAccessKey || !given.SessionToken)
      throw Object.assign(new Error('no credentials'), { $metadata: { httpStatusCode: 200 } });
    return {
      access_key_id: given.AccessKeyId,
      secret_access_key: given.SecretAccessKey,
      session_token: given.SessionToken,
      ...(given.Expiration ? { expires_at: given.Expiration.toISOString() } : {}),
    };
  } catch (error) {
    throw s3Failure(error, `Assuming the role ${sts.role_arn}`, destination);
  } finally {
    client.destroy();
  }
};
