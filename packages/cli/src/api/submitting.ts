import { randomUUID } from 'node:crypto';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Submission, SubmitAnswer } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import type { Surroundings } from '../surroundings.ts';
import { type Api, mayHaveArrived } from './client.ts';
import { routes } from './routes.ts';

/** What cancels a command: signed, where there is a key. */
export type CancelBodyOf = (commandId: string) => Promise<{ directive?: Envelope }>;

const SUBMIT_FOR_MS = 30_000;

/** Repeated under the same idempotency key when the answer was lost, so that no command is submitted twice. */
export const submitted = async (
  api: Api,
  submission: Partial<Submission>,
  { now, pause }: Pick<Surroundings, 'now' | 'pause'>,
): Promise<SubmitAnswer> => {
  const body = { ...submission, idempotency_key: submission.idempotency_key ?? randomUUID() };
  const giveUp = now() + SUBMIT_FOR_MS;
  let sent = false;
  for (let tries = 0; ; tries++) {
    try {
      return await api.call(routes.submitCommand, { body });
    } catch (error) {
      sent ||= mayHaveArrived(error);
      const code = error instanceof AegisError ? error.code : null;
      const again = code === 'http.unavailable' || (sent && code === 'cli.unreachable');
      if (!again || now() > giveUp) throw sent ? unknownSubmission(error) : error;
      const wanted = error instanceof AegisError ? (error.retryAfterSec ?? 0) * 1000 : 0;
      await pause(Math.max(Math.min(wanted, 5000), Math.min(2000, 50 * 2 ** tries)));
    }
  }
};

const unknownSubmission = (error: unknown): unknown => {
  if (!(error instanceof AegisError)) return error;
  return new AegisError(
    error.code,
    `${error.message} Whether the command was submitted is unknown; see 'aegis commands list'.`,
    { cause: error, details: { ...error.details, unknown: true } },
  );
};

/** For whoever no longer listens. */
export const cancelQuietly = async (api: Api, id: string, cancelling?: CancelBodyOf): Promise<void> => {
  try {
    await api.call(routes.cancelCommand, { params: { id }, body: (await cancelling?.(id)) ?? {} });
  } catch {
    // It has ended meanwhile, or cannot be reached: nobody is left to tell.
  }
};
