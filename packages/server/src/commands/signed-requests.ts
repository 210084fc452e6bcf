import { type Directive, FUTURE_TOLERANCE_MS, MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { type OperatorKey, openOperatorDirective, selectorOfTargets } from '@aegis/protocol/access/operators';
import { CancelBody, RunBody } from '@aegis/protocol/commands/carrier';
import { maxAttempts } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { isoTime } from '../platform/clock.ts';
import { priorityNamed } from './priorities.ts';
import { canonical, deadlineOf, type Request } from './submission-request.ts';

/** Operators' own directives as they come with a request: carried only when genuine, and when they say what the request says. Nodes judge them
 *  again, and by themselves: what is refused here is refused early, where somebody still looks. */

export interface SignedRequests {
  /** The request with id and times of what was signed. @throws AegisError access.bad_signature, access.bad_directive, access.stale_directive */
  submission(request: Request, envelope: Envelope, now: number): Request & { id: string; operatorDirective: string };
  /** @throws AegisError as above */
  cancel(commandId: string, node: string | undefined, envelope: Envelope, now: number): void;
}

export const signedRequests = (on: {
  fleet: string;
  /** Of the newest trust bundle. */
  operators: () => ReadonlyMap<string, OperatorKey>;
}): SignedRequests => {
  const opened = (envelope: Envelope, kind: Directive['kind'], now: number) => {
    const { directive, keys } = openOperatorDirective(envelope, on.operators());
    if (directive.fleet !== on.fleet) throw differs('it is for another fleet');
    if (directive.kind !== kind) throw differs(`it is a '${directive.kind}'`);
    const beyond = keys.find(({ scope }) => scope.kinds?.includes(kind) === false);
    if (beyond)
      throw new AegisError(
        'access.bad_directive',
        `The scope of the key '${beyond.name}' has no '${kind}': nothing would obey it.`,
      );
    const [issuedAt, expiresAt] = [Date.parse(directive.issued_at), Date.parse(directive.expires_at)];
    if (!('selector' in directive.targets)) throw differs('its targets are no selector');
    if (!(issuedAt - now <= FUTURE_TOLERANCE_MS))
      throw stale(`it was issued at ${directive.issued_at}, and here it is ${isoTime(now)}: set the clocks right`);
    if (!(expiresAt > now)) throw stale(`it expired at ${directive.expires_at}`);
    if (expiresAt - issuedAt > MAX_LIFETIME_MS) throw stale('it claims to hold for more than seven days');
    return { directive, selector: directive.targets.selector, expiresAt };
  };

  return {
    submission: (request, envelope, now) => {
      const { directive, selector, expiresAt } = opened(envelope, 'command.run', now);
      const { command } = request;
      const payload: unknown = JSON.parse(command.payload);
      const asked: RunBody = {
        command_type: command.command_type,
        payload,
        priority: priorityNamed(command.priority),
        delivery: command.delivery,
        output_limit_bytes: command.output_limit_bytes,
      };
      const body = z.safeParse(RunBody, directive.body);
      if (!body.success || canonical(body.data) !== canonical(asked)) throw differs('it says to run another thing');
      if (selector !== selectorOfTargets(request.targets)) throw differs('it has other targets');
      const notBefore = directive.not_before === undefined ? null : Date.parse(directive.not_before);
      if (notBefore !== command.scheduled_at) throw differs('it has another start');
      if (maxAttempts({ maxRetries: command.max_retries, delivery: command.delivery }) > directive.max_attempts)
        throw differs(`it allows ${directive.max_attempts} attempts`);
      return {
        ...request,
        id: directive.id,
        operatorDirective: JSON.stringify(envelope),
        command: {
          ...command,
          text_chars: command.text_chars + envelope.payload.length,
          expires_at: expiresAt,
          deadline_at: deadlineOf(payload, expiresAt),
        },
      };
    },
    cancel: (commandId, node, envelope, now) => {
      const { directive, selector } = opened(envelope, 'command.cancel', now);
      const body = z.safeParse(CancelBody, directive.body);
      if (!body.success || body.data.command_id !== commandId) throw differs('it is about another command');
      if (node !== undefined && selector !== selectorOfTargets([node])) throw differs('it has other targets');
    },
  };
};

const differs = (why: string): AegisError =>
  new AegisError(
    'access.bad_directive',
    `The signed directive does not say what the request says: ${why}. Sign it anew.`,
  );
const stale = (why: string): AegisError =>
  new AegisError('access.stale_directive', `The signed directive cannot be carried: ${why}. Sign it anew.`);
