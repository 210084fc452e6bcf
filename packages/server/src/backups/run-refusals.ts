import type { RunState } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { RunRow } from './tables.ts';

/** What is said when a run is not there, or not such that this may happen to it. */

export const isFinal = (state: RunState): boolean => state !== 'running' && state !== 'lost';

/** For good: of one that retention has removed nothing may arrive any more, whatever its node still knows of it. */
export const isOver = (run: Pick<RunRow, 'state' | 'removed_at'>): boolean =>
  isFinal(run.state) || run.removed_at !== null;

export const unknownRun = (id: string): AegisError =>
  new AegisError('backups.unknown_run', `No backup run '${id.slice(0, 128)}'. See 'aegis backups runs'.`);
export const ended = (run: RunRow): AegisError =>
  new AegisError(
    'backups.run_ended',
    `The run ${run.id} has ended (${run.removed_at === null ? run.state : 'removed by retention'}): nothing of it changes any more.`,
    {
      details: { state: run.state },
    },
  );
export const attemptIs = (run: RunRow, attempt: number): AegisError =>
  new AegisError(
    'backups.run_conflict',
    `The run ${run.id} is in attempt ${run.attempt}; this is of attempt ${attempt}. Begin an attempt before you speak of it, and leave a former one alone.`,
    { details: { attempt: run.attempt } },
  );
export const takenRun = (id: string): AegisError =>
  new AegisError('backups.run_conflict', `The id ${id} names another run already. Make a new UUIDv7 for a new run.`);
