import { httpStatusOf } from '@aegis/protocol/errors';
import type { Clock } from '../../platform/clock.ts';
import type { AuditedCall, AuditHook } from '../../platform/http/audit-hook.ts';
import type { Log } from '../../platform/log.ts';
import type { NewEntry } from './repository.ts';
import { actorFields, summaryOf, targetsOf } from './wording.ts';

/** Which calls are entries, and when they are written. `begun` joins the transaction of the change that follows or one before it,
 *  because works are committed in the order in which they came: no crash leaves a change without an entry. `ok` is durable before
 *  the answer. What only admins may do changes files, too: there `begun` is durable before anything happens. */

/** Calls of nodes, or of whoever becomes one, that grant nothing new: too many to write each, and refusals are. */
const NOT_EACH: ReadonlySet<string> = new Set(['renewToken', 'registerInit']);

export const auditHook = (parts: {
  append: (entry: NewEntry) => Promise<unknown>;
  refusal: (entry: NewEntry) => void;
  clock: Clock;
  log: Log;
}): AuditHook => {
  const { append, clock, log } = parts;
  const entryOf = (call: Omit<AuditedCall, 'params' | 'body'>) => ({
    at: clock.now(),
    request_id: call.requestId,
    ...actorFields(call.actor),
    action: call.endpoint.id,
    address: call.address,
    count: 1,
  });
  const refused: AuditHook['refused'] = (refusal) =>
    parts.refusal({
      ...entryOf(refusal),
      targets: [refusal.endpoint.path],
      summary: [],
      outcome: 'refused',
      code: refusal.error.code,
    });
  return {
    refused,
    call: (call) => {
      const { endpoint, params, body } = call;
      if (endpoint.method === 'GET' || endpoint.caller === 'node' || NOT_EACH.has(endpoint.id)) return null;
      const asked = { ...entryOf(call), summary: summaryOf(body) };
      const begun = append({ ...asked, targets: targetsOf(params, body, undefined), outcome: 'begun', code: null });
      begun.catch((err: unknown) => log.error({ err, request_id: call.requestId }, 'an audit entry is not stored'));
      return {
        begun: endpoint.caller === 'admin' ? begun.then(() => undefined) : Promise.resolve(),
        ended: async (outcome) => {
          if ('result' in outcome) {
            const targets = targetsOf(params, body, outcome.result);
            await append({ ...asked, at: clock.now(), targets, outcome: 'ok', code: null });
            return;
          }
          const { error } = outcome;
          // Nobody has authenticated: as many as a flood has, and nothing changed.
          if (call.actor === null) return refused({ ...call, error });
          await append({
            ...asked,
            at: clock.now(),
            targets: targetsOf(params, body, undefined),
            outcome: httpStatusOf(error.code) >= 500 ? 'failed' : 'refused',
            code: error.code,
          }).catch((err: unknown) =>
            log.error({ err, request_id: call.requestId, code: error.code }, 'an audit entry is not stored'),
          );
        },
      };
    },
  };
};
