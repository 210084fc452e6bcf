import type { KeyObject } from 'node:crypto';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { Endpoint } from '@aegis/protocol/endpoint';
import type { Pool } from 'undici';

/** What a node has after its enrolment. */
export interface Session {
  pool: Pool;
  uid: string;
  token: string;
  keys: KeyPair;
  /** Keys whose directives it obeys. */
  signers: ReadonlyMap<string, KeyObject>;
}

/** @throws Error with the answer's body unless it is a success */
export const call = async <T>(
  pool: Pool,
  { method, path }: Pick<Endpoint, 'method' | 'path'>,
  sent: { path?: string; token?: string; body?: unknown },
): Promise<T> => {
  const answer = await pool.request({
    method,
    path: sent.path ?? path,
    headers: {
      ...(sent.token ? { authorization: `Bearer ${sent.token}` } : {}),
      ...(sent.body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    body: sent.body === undefined ? null : JSON.stringify(sent.body),
  });
  if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${await answer.body.text()}`);
  return (await answer.body.json()) as T;
};
