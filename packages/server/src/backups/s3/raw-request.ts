import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { S3Destination } from '@aegis/protocol/backups/config';
import type { SignedRequest } from '@aegis/protocol/backups/node-endpoints';
import type { S3Bounds } from './client.ts';

/** Sends a signed request as a node would: with these headers and no others. @returns the status alone */
export const sendSigned = (
  method: string,
  { url, headers }: Pick<SignedRequest, 'url' | 'headers'>,
  body: Buffer,
  { ca }: S3Destination,
  { idleTimeoutMs, callTimeoutMs }: S3Bounds,
): Promise<number> =>
  new Promise((resolve, reject) => {
    const tls = url.startsWith('https:');
    const options = {
      method,
      headers,
      timeout: idleTimeoutMs,
      signal: AbortSignal.timeout(callTimeoutMs),
      agent: false as const,
      ...(tls && ca !== undefined ? { ca } : {}),
    };
    const out = (tls ? httpsRequest : httpRequest)(url, options, (answer) => {
      answer.on('error', () => {}); // the status was all that was wanted
      answer.destroy();
      resolve(answer.statusCode ?? 0);
    });
    out.once('timeout', () => out.destroy(Object.assign(new Error('no answer'), { name: 'TimeoutError' })));
    out.once('error', reject);
    out.end(body);
  });
