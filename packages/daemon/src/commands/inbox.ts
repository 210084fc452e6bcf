import type { Envelope } from '@aegis/protocol/access/dsse';
import { CancelBody, OfferedCommand, type Report, RunBody } from '@aegis/protocol/commands/carrier';
import { priorityRank } from '@aegis/protocol/commands/submission';
import { validatePayload } from '@aegis/protocol/commands/types';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { ExecutionRow } from './execution.ts';
import { reportOfLoss, reportOfNoStart } from './final-report.ts';
import type { CommandsRepository, NewExecution } from './repository.ts';

/** Offers become journal rows, one transaction for all that came together. Nothing is acknowledged that is not in it, except what
 *  can never be: offers without a readable command id, which are logged, so that they do not come for ever. */

/** What access says of a directive; typed here because domains do not know each other. */
export type Verdict =
  | { kind: 'good'; directive: Known; issuedAtMs: number; notBeforeMs: number | null; expiresAtMs: number }
  | { kind: 'seen'; directive: Known }
  | { kind: 'expired'; directive: Known; message: string }
  | { kind: 'refused'; code: string; message: string };
interface Known {
  id: string;
  /** Others than an offer's two never pass: desired state comes by another way. */
  kind: string;
  issued_at: string;
  body?: unknown;
}

export interface Accepted {
  /** Execution ids to acknowledge. */
  acknowledge: string[];
  /** New rows, in order of arrival; those with a report have ended before they began. */
  executions: ExecutionRow[];
  /** Commands that are to end. */
  cancelled: string[];
}

export interface InboxOptions {
  repository: CommandsRepository;
  journal: Journal;
  verify(offered: { directive: Envelope; operator_directive?: Envelope | undefined }, attempt: number): Verdict;
  /** Inside the transaction. False when it was seen already. */
  markSeen(directiveId: string, attempt: number, issuedAtMs: number): boolean;
  /** How many more executions the journal may hold. */
  room(): number;
  /** How many of those that come now start at once: they are marked as handed over by the transaction that accepts them. */
  handOver: { bootId: string; slots(): number };
  clock: Clock;
  log: Logger;
}

/** What one offer leads to: rows to write and things to do, decided before the transaction. */
type Decision =
  | { kind: 'acknowledge' }
  | { kind: 'later' }
  | { kind: 'run'; row: NewExecution; seen: { id: string; issuedAtMs: number } | null }
  | { kind: 'cancel'; commandId: string; seen: { id: string; issuedAtMs: number } };

const LATER: Decision = { kind: 'later' };
const TOMBSTONE_MS = 7 * 24 * 3_600_000;
const Frame = z.object({
  kind: z.optional(z.string()),
  execution_id: z.uuid(),
  command_id: z.optional(z.uuid()),
  attempt: z._default(z.int().check(z.positive()), 1),
});

export const commandsInbox = ({ repository, journal, verify, markSeen, room, handOver, clock, log }: InboxOptions) => {
  const decideRun = (offer: Omit<OfferedCommand, 'directive' | 'operator_directive'>, verdict: Verdict): Decision => {
    const execution = { id: offer.execution_id, commandId: offer.command_id, attempt: offer.attempt };
    const ended = (report: Report, seen: { id: string; issuedAtMs: number } | null): Decision => ({
      kind: 'run',
      seen,
      row: {
        ...execution,
        priority: 0,
        delivery: 'at-most-once',
        notBeforeMs: null,
        expiresAtMs: 0,
        outputLimitBytes: 0,
        handedBoot: null,
        body: null,
        report,
      },
    });
    const refuse = (code: string, message: string): Decision => {
      log.warn({ command_id: offer.command_id, execution_id: offer.execution_id, code }, message);
      // Not for one that is known here: nobody but this node's own supervisor ends that.
      if (repository.has(execution.id) || repository.keptReport(execution.id)) return { kind: 'acknowledge' };
      return ended(reportOfNoStart(execution, 'refused', { code, message }, clock.now()), null);
    };
    if (verdict.kind === 'refused') return refuse(verdict.code, verdict.message);
    const { directive } = verdict;
    if (directive.kind !== 'command.run' && directive.kind !== 'command.cancel')
      return refuse(
        'access.bad_directive',
        `A directive of kind '${directive.kind}' is no command: it is desired state, which is taken by generation and never offered.`,
      );
    if (directive.kind !== offer.kind || directive.id !== offer.command_id)
      return refuse('access.bad_directive', 'The offer names another command than its directive.');
    if (verdict.kind === 'seen') {
      if (repository.has(execution.id)) return { kind: 'acknowledge' };
      // The server forgot what it had acknowledged: it was restored from a backup.
      const kept = repository.keptReport(execution.id);
      const why = 'This node has carried the command out before and no longer knows how it ended; it is not repeated.';
      return ended(kept ?? reportOfLoss(execution, null, null, why, clock.now()), null);
    }
    const seen = { id: directive.id, issuedAtMs: Date.parse(directive.issued_at) };
    if (verdict.kind === 'expired')
      return ended(
        reportOfNoStart(execution, 'expired', { code: 'commands.expired', message: verdict.message }, clock.now()),
        seen,
      );
    const body = z.safeParse(RunBody, directive.body);
    if (!body.success)
      return refuse('access.bad_directive', "The directive's body is not a command that this release understands.");
    try {
      validatePayload(body.data.command_type, body.data.payload);
    } catch (error) {
      if (error instanceof AegisError) return refuse(error.code, error.message);
      throw error;
    }
    return {
      kind: 'run',
      seen,
      row: {
        ...execution,
        priority: priorityRank(body.data.priority),
        delivery: body.data.delivery,
        notBeforeMs: verdict.notBeforeMs,
        expiresAtMs: verdict.expiresAtMs,
        outputLimitBytes: body.data.output_limit_bytes,
        handedBoot: null,
        body: JSON.stringify(body.data),
        report: null,
      },
    };
  };

  /** Only acknowledged, what nobody here will ever report would stay `delivered` on the server. */
  const decideUnreadable = ({ kind, execution_id, command_id, attempt }: z.infer<typeof Frame>): Decision => {
    if (command_id === undefined || kind === 'command.cancel') return { kind: 'acknowledge' };
    const message = 'The node cannot read this offer. Give server and node the same release.';
    const refused = { kind: 'refused', code: 'access.bad_directive', message } as const;
    return decideRun({ kind: 'command.run', execution_id, command_id, attempt }, refused);
  };

  /** A cancel that is not good is only logged: it must not end anything, nor be told as the execution's end. An expired one
   *  is good: the operator's wish does not lapse, and it cannot be replayed because it is seen but once. */
  const decideCancel = (offer: OfferedCommand, verdict: Verdict): Decision => {
    const body = verdict.kind === 'refused' ? null : z.safeParse(CancelBody, verdict.directive.body);
    if (verdict.kind === 'refused' || verdict.directive.kind !== offer.kind || !body?.success) {
      const code = verdict.kind === 'refused' ? verdict.code : 'access.bad_directive';
      log.warn({ command_id: offer.command_id, execution_id: offer.execution_id, code }, 'refused to cancel');
      return { kind: 'acknowledge' };
    }
    if (verdict.kind === 'seen') return { kind: 'acknowledge' };
    const { directive } = verdict;
    return {
      kind: 'cancel',
      commandId: body.data.command_id,
      seen: { id: directive.id, issuedAtMs: Date.parse(directive.issued_at) },
    };
  };

  const write = (decision: Decision, attempt: number, slots: number, result: Accepted): void => {
    if (decision.kind === 'cancel') {
      if (!markSeen(decision.seen.id, attempt, decision.seen.issuedAtMs)) return;
      repository.addTombstone(decision.commandId, clock.now() + TOMBSTONE_MS);
      repository.setCancelAsked(decision.commandId);
      result.cancelled.push(decision.commandId);
    } else if (decision.kind === 'run') {
      if (decision.seen && !markSeen(decision.seen.id, attempt, decision.seen.issuedAtMs)) return;
      const dead = decision.row.report === null && repository.hasTombstone(decision.row.commandId);
      const report = dead ? reportOfNoStart(decision.row, 'cancelled', null, clock.now()) : decision.row.report;
      const startsNow = report === null && decision.row.notBeforeMs === null && result.executions.length < slots;
      const handedBoot = startsNow ? handOver.bootId : null;
      const row = { ...decision.row, report, handedBoot, body: dead ? null : decision.row.body };
      const seq = repository.insert(row);
      if (seq === null) return; // that execution id is taken: the one that has it stays as it is
      const { body: _, ...kept } = row;
      result.executions.push({ ...kept, seq, begun: false, cancelAsked: false });
    }
  };

  return {
    /** @throws AegisError journal.full | journal.failed: then nothing was accepted and nothing may be acknowledged */
    accept: async (offers: readonly unknown[]): Promise<Accepted> => {
      const decisions: { id: string; attempt: number; decision: Decision }[] = [];
      let free = room();
      for (const one of offers) {
        const parsed = z.safeParse(OfferedCommand, one);
        if (!parsed.success) {
          const frame = z.safeParse(Frame, one);
          log.warn(
            { execution_id: frame.success ? frame.data.execution_id : null },
            'an offer that this release cannot read',
          );
          if (frame.success) {
            const { execution_id: id, attempt } = frame.data;
            const decision = decideUnreadable(frame.data);
            decisions.push({ id, attempt, decision: decision.kind === 'run' && free-- <= 0 ? LATER : decision });
          }
          continue;
        }
        const offer = parsed.data;
        // A cancel is of the command: it has one attempt, whichever the execution's is.
        const attempt = offer.kind === 'command.cancel' ? 1 : offer.attempt;
        const verdict = verify(offer, attempt);
        let decision = offer.kind === 'command.cancel' ? decideCancel(offer, verdict) : decideRun(offer, verdict);
        if (decision.kind === 'run' && free-- <= 0) decision = LATER;
        decisions.push({ id: offer.execution_id, attempt, decision });
      }
      const result: Accepted = { acknowledge: [], executions: [], cancelled: [] };
      if (decisions.some(({ decision }) => decision.kind === 'run' || decision.kind === 'cancel'))
        await journal.group('accept', () => {
          // Runs before cancels, so that a cancel in the same answer finds its command.
          const slots = handOver.slots();
          for (const { attempt, decision } of decisions)
            if (decision.kind === 'run') write(decision, attempt, slots, result);
          for (const { attempt, decision } of decisions)
            if (decision.kind === 'cancel') write(decision, attempt, slots, result);
        });
      const later = new Set(decisions.filter(({ decision }) => decision.kind === 'later').map(({ id }) => id));
      result.acknowledge = [...new Set(decisions.map(({ id }) => id))].filter((id) => !later.has(id));
      return result;
    },
  };
};
