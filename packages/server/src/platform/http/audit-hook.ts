import type { Endpoint } from '@aegis/protocol/endpoint';
import { type AegisError, httpStatusOf } from '@aegis/protocol/errors';
import type { Within } from '../node-scope.ts';
import type { Actor } from './actor.ts';

/** Whether an error says that this caller may not: 401 and 403; and 404 to those for whom what is another node's, or beyond a scope, is not
 *  there. */
export const isRefusal = (error: AegisError, by: { actor: Actor | null; within: Within }): boolean => {
  const status = httpStatusOf(error.code);
  return status === 401 || status === 403 || (status === 404 && (by.actor?.kind === 'node' || by.within !== null));
};

/** What mount.ts tells of each call, for a record that no route can forget. It knows nothing of what is done with it. */
export interface AuditedCall {
  readonly endpoint: Endpoint;
  readonly actor: Actor | null;
  readonly address: string;
  readonly requestId: string;
  /** As decoded. */
  readonly params: unknown;
  readonly body: unknown;
}
export interface AuditedRefusal {
  readonly endpoint: Endpoint;
  readonly actor: Actor | null;
  readonly address: string;
  readonly requestId: string;
  readonly error: AegisError;
}
export interface CallRecord {
  /** The handler is called when this has resolved. @throws AegisError to refuse the call */
  readonly begun: Promise<void>;
  /** The answer is sent when this has resolved. @throws AegisError: then that is the answer */
  ended(outcome: { result: unknown } | { error: AegisError }): Promise<void>;
}
export interface AuditHook {
  /** Before the handler of each call. Null: nothing is recorded of it. */
  call(call: AuditedCall): CallRecord | null;
  /** Of each credential or role that is refused, each 401 or 403 that a handler decides, and of what a caller with a scope asked for and is not there. Never
   *  throws. */
  refused(refusal: AuditedRefusal): void;
}
