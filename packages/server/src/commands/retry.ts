import { isFinalCommand } from '@aegis/protocol/commands/state';
import type { SubmitAnswer } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { OperatorActor } from '../platform/http/actor.ts';
import type { Within } from '../platform/node-scope.ts';
import type { ListingRepository } from './listing-repository.ts';
import type { ScopedParts } from './scoped-part.ts';
import type { SubmissionService } from './submission.ts';
import { deadlineOf } from './submission-request.ts';

/** Submits a command anew for the nodes on which it did not succeed: a command of its own, under the same correlation id. */
export const retryService =
  (on: {
    listing: ListingRepository;
    parts: ScopedParts;
    submission: SubmissionService;
    clock: Clock;
    /** Those of the nodes that are not retired. */
    active: (nodeUids: readonly string[]) => Promise<readonly string[]>;
  }) =>
  /** @throws AegisError commands.unknown_command, commands.not_retryable, and what submitting throws */
  async (actor: OperatorActor, commandId: string, within: Within): Promise<SubmitAnswer> => {
    const command = await on.parts.commandOrThrow(commandId, within);
    if (!isFinalCommand(command.state))
      throw new AegisError('commands.not_retryable', 'It has not ended yet. Wait for it, or cancel it first.');
    const nodes = await on.active(await on.listing.unsuccessfulNodes(commandId, within));
    if (nodes.length === 0)
      throw new AegisError(
        'commands.not_retryable',
        'There is no node to retry it on: it succeeded, or where it did not the node was retired.',
      );
    const now = on.clock.now();
    // The time that it had from its start on, whenever that was to be.
    const ttl = command.expires_at - Math.max(command.created_at, command.scheduled_at ?? 0);
    return on.submission.submitRequest(actor, within, {
      targets: [...nodes],
      dryRun: false,
      idempotencyKey: null,
      requestSha256: '',
      command: {
        command_type: command.command_type,
        payload: command.payload,
        text_chars: command.text_chars,
        priority: command.priority,
        delivery: command.delivery,
        max_retries: command.max_retries,
        retry_backoff_ms: command.retry_backoff_ms,
        output_limit_bytes: command.output_limit_bytes,
        correlation_id: command.correlation_id,
        created_at: now,
        scheduled_at: null,
        expires_at: now + ttl,
        deadline_at: deadlineOf(JSON.parse(command.payload), now + ttl),
      },
    });
  };
export type RetryService = ReturnType<typeof retryService>;
