import * as z from 'zod/mini';
import { type Directive, MAX_LIFETIME_MS } from '../access/directive.ts';
import { selectorOfTargets } from '../access/operators.ts';
import { AegisError } from '../errors.ts';
import { RunBody } from './carrier.ts';
import { maxAttempts } from './state.ts';
import { Submission } from './submission.ts';
import { validatePayload } from './types.ts';

/** What an operator signs, made from what is submitted, and the other way round. The CLI makes it and the server compares: a directive that
 *  says another thing than the request beside it is refused. */

/** @throws AegisError commands.invalid_payload, unsupported_type, no_target, bad_selector */
export const directiveOf = (
  submission: Partial<Submission>,
  { fleet, id, now }: { fleet: string; id: string; now: number },
): Directive => {
  const { priority, delivery, output_limit_bytes, max_retries, ttl_sec, scheduled_at, ...what } = z.parse(
    Submission,
    submission,
  );
  const type = what.command_type ?? what.verb ?? '';
  const targets = what.targets ?? what.agent_targets ?? [];
  const body: RunBody = {
    command_type: type,
    payload: validatePayload(type, what.payload ?? what.args),
    priority,
    delivery,
    output_limit_bytes,
  };
  const from = Math.max(now, scheduled_at === undefined ? now : Date.parse(scheduled_at));
  const expiresAt = from + ttl_sec * 1000;
  if (expiresAt - now > MAX_LIFETIME_MS)
    throw new AegisError(
      'commands.invalid_payload',
      'A signature holds for seven days at most: choose an earlier start or a shorter time to live.',
    );
  return {
    fleet,
    id,
    kind: 'command.run',
    targets: { selector: selectorOfTargets(typeof targets === 'string' ? [targets] : targets) },
    issued_at: iso(now),
    ...(scheduled_at === undefined ? {} : { not_before: iso(Date.parse(scheduled_at)) }),
    expires_at: iso(expiresAt),
    max_attempts: maxAttempts({ maxRetries: max_retries, delivery }),
    body,
  };
};

/** @throws AegisError access.bad_directive for what is no command */
export const submissionOfDirective = (directive: Directive): Partial<Submission> => {
  const body = z.safeParse(RunBody, directive.body);
  if (directive.kind !== 'command.run' || !body.success || !('selector' in directive.targets))
    throw new AegisError('access.bad_directive', `It is no command that can be submitted, but a '${directive.kind}'.`);
  const { command_type, payload, priority, delivery, output_limit_bytes } = body.data;
  return {
    command_type,
    payload,
    priority,
    delivery,
    output_limit_bytes,
    targets: [directive.targets.selector],
    ...(directive.not_before === undefined ? {} : { scheduled_at: directive.not_before }),
    // Under at-least-once the number of attempts is one for losses, not for failures.
    max_retries: delivery === 'at-least-once' ? 0 : Math.min(20, directive.max_attempts - 1),
  };
};

const iso = (ms: number): string => new Date(ms).toISOString();
