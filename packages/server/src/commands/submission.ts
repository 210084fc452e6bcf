import type { Submission, SubmitAnswer } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { OperatorActor } from '../platform/http/actor.ts';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import type { Storage } from '../tables.ts';
import { commandTopic, nodeTopic } from './changes.ts';
import type { SignedRequests } from './signed-requests.ts';
import type { KnownSubmission, NewCommand, SubmissionRepository } from './submission-repository.ts';
import { type Request, readSubmission } from './submission-request.ts';
import type { CommandRow } from './tables.ts';

/** Submissions: resolved to nodes when they come, and either stored as a whole or not at all. */

export interface ResolvedTarget {
  uid: string;
  name: string;
  status: string;
  /** The target, as the submitter wrote it, through which the node was reached. */
  matchedBy: string;
}
/** @throws AegisError commands.unknown_target, commands.bad_selector, commands.no_target */
export type ResolveTargets = (targets: readonly string[], within: Within) => Promise<readonly ResolvedTarget[]>;

type Stored = { full: ReadonlySet<string> } | { known: KnownSubmission | null } | { taken: true };

const QUEUE_RETRY_SEC = 10;
const NAMES_SHOWN = 10;

export const submissionService = (on: {
  storage: Storage;
  repository: SubmissionRepository;
  resolve: ResolveTargets;
  /** Those of the nodes that are within. */
  uidsWithin: (uids: readonly string[], within: NodeScope) => Promise<ReadonlySet<string>>;
  bus: Bus;
  clock: Clock;
  newId: () => string;
  maxQueuedPerNode: number;
  signed: Pick<SignedRequests, 'submission'>;
}) => {
  const { storage, repository } = on;

  /** Those that share a transaction, together: each is stored, or its nodes' queues are full, or another request had its key. */
  const store = storage.writeTogether('commands.submit', async (tx, items: readonly NewCommand[]) => {
    const uids = new Set(items.flatMap(({ executions }) => executions.map(({ uid }) => uid)));
    const queued = await repository.queued(tx, [...uids]);
    const fullOf = ({ executions }: NewCommand): Set<string> => {
      const full = executions.filter(({ uid }) => (queued.get(uid) ?? 0) >= on.maxQueuedPerNode);
      if (full.length === 0) for (const { uid } of executions) queued.set(uid, (queued.get(uid) ?? 0) + 1);
      return new Set(full.map(({ uid }) => uid));
    };
    const full = items.map(fullOf);
    const accepted = items.filter((_, at) => full[at]?.size === 0);
    const inserted = await repository.insert(tx, accepted);
    const outcomes: Stored[] = [];
    for (const [at, { command }] of items.entries()) {
      const nodes = full[at];
      if (nodes && nodes.size > 0) outcomes.push({ full: nodes });
      else if (inserted.has(command.id)) outcomes.push({ known: null });
      else {
        const known = await repository.known(tx, command.actor_id, command.idempotency_key ?? '');
        outcomes.push(known ? { known } : { taken: true });
      }
    }
    return outcomes;
  });

  /** A node that has left the scope since is not told of any more. */
  const asSeen = async (answer: SubmitAnswer, within: Within): Promise<SubmitAnswer> => {
    if (within === null) return answer;
    const uids = await on.uidsWithin(
      answer.targets.map(({ uid }) => uid),
      within,
    );
    return { ...answer, targets: answer.targets.filter(({ uid }) => uids.has(uid)) };
  };

  const submit = async (actor: OperatorActor, within: Within, request: Request): Promise<SubmitAnswer> => {
    const { idempotencyKey } = request;
    if (idempotencyKey !== null && !request.dryRun) {
      // Before the targets: a repeat is answered as the first was, whatever the fleet looks like by now.
      const known = await repository.known(storage.read, actor.id, idempotencyKey);
      if (known) return asSeen(answerAgain(known, request), within);
    }
    refusePast(request.command); // after the look at what is known: the repeat of what was on time then is answered
    const targets = await on.resolve(request.targets, within);
    if (targets.length === 0)
      throw new AegisError('commands.no_target', "No node is meant by these targets. See 'aegis nodes list'.");
    if (request.dryRun) return answerOf(request, null, targets, () => null);

    const command = commandRow(actor, request, targets.length, on.newId);
    const ids = new Map(targets.map(({ uid }) => [uid, on.newId()]));
    const answer = answerOf(request, command.id, targets, (uid) => ids.get(uid) ?? null);
    if (idempotencyKey !== null) command.answer = JSON.stringify(answer);
    const outcome = await store({
      command,
      executions: targets.map(({ uid, name }) => ({ id: ids.get(uid) ?? '', uid, name })),
    });
    if ('taken' in outcome) throw alreadyThere(command.id);
    if ('full' in outcome) throw queueFull(targets.filter(({ uid }) => outcome.full.has(uid)));
    const stored = outcome.known;
    if (stored) return asSeen(answerAgain(stored, request), within); // another request with the same key was quicker
    for (const uid of ids.keys()) on.bus.publish(nodeTopic(uid));
    on.bus.publish(commandTopic(command.id));
    return answer;
  };

  return {
    /** @throws AegisError commands.queue_full, idempotency_conflict and what readSubmission and resolve throw */
    submit: async (
      actor: OperatorActor,
      within: Within,
      body: Submission,
      idempotencyHeader?: string,
    ): Promise<SubmitAnswer> => {
      const now = on.clock.now();
      const request = readSubmission(body, idempotencyHeader, now);
      return submit(actor, within, body.directive ? on.signed.submission(request, body.directive, now) : request);
    },
    submitRequest: submit,
  };
};
export type SubmissionService = ReturnType<typeof submissionService>;

/** As long as a request may take to come, and clocks may differ. */
const LATE_MS = 60_000;
const refusePast = ({ scheduled_at, created_at }: Request['command']): void => {
  if (scheduled_at === null || scheduled_at >= created_at - LATE_MS) return;
  throw new AegisError(
    'commands.invalid_payload',
    `'scheduled_at' is in the past (${isoTime(scheduled_at)}; here it is ${isoTime(created_at)}). Give a time to come, or leave it out to run at once.`,
    { details: { field: 'scheduled_at' } },
  );
};

const answerOf = (
  request: Request,
  commandId: string | null,
  targets: readonly ResolvedTarget[],
  executionOf: (uid: string) => string | null,
): SubmitAnswer => ({
  command_id: commandId,
  targets: targets.map(({ uid, name, status, matchedBy }) => ({
    uid,
    name,
    status,
    execution_id: executionOf(uid),
    matched_by: matchedBy,
  })),
  state: 'pending',
  expires_at: isoTime(request.command.expires_at),
});

const answerAgain = (
  known: { request_sha256: string | null; answer: string | null },
  request: Request,
): SubmitAnswer => {
  if (known.request_sha256 !== request.requestSha256 || known.answer === null)
    throw new AegisError(
      'commands.idempotency_conflict',
      'This idempotency key was used for another request. Send that same request, or take a new key.',
    );
  return JSON.parse(known.answer) as SubmitAnswer; // written by answerOf
};

const alreadyThere = (id: string): AegisError =>
  new AegisError(
    'commands.idempotency_conflict',
    `What was signed was submitted before: see 'aegis commands show ${id}'. Sign it anew to run it again.`,
  );

const commandRow = (actor: OperatorActor, request: Request, nodes: number, newId: () => string): CommandRow => {
  const id = request.id ?? newId();
  return {
    ...request.command,
    id,
    correlation_id: request.command.correlation_id ?? id,
    targets: JSON.stringify(request.targets),
    actor_kind: actor.kind,
    actor_id: actor.id,
    actor_name: actor.name,
    state: 'pending',
    result: JSON.stringify({ queued: nodes }),
    retry_count: 0,
    idempotency_key: request.idempotencyKey,
    request_sha256: request.idempotencyKey === null ? null : request.requestSha256,
    answer: null,
    operator_directive: request.operatorDirective ?? null,
    operator_cancels: null,
    executed_at: null,
    completed_at: null,
    error_message: null,
    check_at: request.command.expires_at,
  };
};

const queueFull = (nodes: readonly ResolvedTarget[]): AegisError => {
  const names = nodes.slice(0, NAMES_SHOWN).map(({ name }) => name);
  const others = nodes.length > names.length ? ` and ${nodes.length - names.length} more` : '';
  return new AegisError(
    'commands.queue_full',
    `The queue of ${names.join(', ')}${others} is full: nothing was submitted. Wait for it to drain, or cancel what waits there.`,
    { details: { nodes: names }, retryAfterSec: QUEUE_RETRY_SEC },
  );
};
