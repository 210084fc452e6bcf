import { MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { sql } from 'kysely';
import type { Storage, Tx } from '../tables.ts';
import type { CommandText } from './directives.ts';
import { OPEN } from './executions-repository.ts';
import { isIn } from './set-queries.ts';

/** What a poll asks the database: what is due for a node, how much it holds, and when the next thing falls due. */

export interface DueRun {
  id: string;
  command_id: string;
  attempt: number;
  text_chars: number;
}
export interface DueCancel {
  id: string;
  command_id: string;
  attempt: number;
  cancel_id: string;
  cancel_at: number;
}

const QUEUED = sql<boolean>`commands_executions.state = 'queued'`;
const HELD = sql<boolean>`commands_executions.state in ('delivered', 'running')`;

export const dispatchRepository = (storage: Storage) => {
  const { kind } = storage;
  const runs = () =>
    storage.read
      .selectFrom('commands_executions')
      .innerJoin('commands', 'commands.id', 'commands_executions.command_id')
      .select([
        'commands_executions.id',
        'commands_executions.command_id',
        'commands_executions.attempt',
        'commands.text_chars',
      ]);
  return {
    /** In the order in which they are to be offered. */
    dueRuns: (nodeUid: string, now: number, limit: number): Promise<DueRun[]> =>
      runs()
        .where('commands_executions.node_uid', '=', nodeUid)
        .where(QUEUED)
        .where(OPEN)
        .where('commands_executions.due_at', '<=', now)
        .where('commands_executions.expires_at', '>', now)
        .orderBy('commands_executions.priority', 'desc')
        .orderBy('commands_executions.id')
        .limit(limit)
        .execute(),

    /** Offered before and not acknowledged; with `held` also what the node has acknowledged and not ended. */
    offeredRuns: (nodeUid: string, now: number, limit: number, held: boolean): Promise<DueRun[]> =>
      runs()
        .where('commands_executions.node_uid', '=', nodeUid)
        .where(OPEN)
        .where((where) =>
          where.or([
            where.and([where('commands_executions.offered_at', 'is not', null), QUEUED]),
            ...(held ? [HELD] : []),
          ]),
        )
        .where((where) => where.or([HELD, where('commands_executions.expires_at', '>', now)]))
        .orderBy('commands_executions.priority', 'desc')
        .orderBy('commands_executions.id')
        .limit(limit)
        .execute(),

    /** Cancels that are due; with `all`, acknowledged ones too, as long as the node has not reported the end. */
    cancels: (nodeUid: string, now: number, limit: number, all: boolean): Promise<DueCancel[]> =>
      storage.read
        .selectFrom('commands_executions')
        .select(['id', 'command_id', 'attempt', 'cancel_id', 'cancel_at'])
        .where('node_uid', '=', nodeUid)
        .where('cancel_due_at', 'is not', null)
        .where('cancel_at', '>', now - MAX_LIFETIME_MS) // its directive has expired by then
        .$if(!all, (query) => query.where('cancel_due_at', '<=', now))
        .orderBy('cancel_due_at')
        .limit(limit)
        .$narrowType<{ cancel_id: string; cancel_at: number }>() // both are set with cancel_due_at
        .execute(),

    /** How many executions the node has: acknowledged and not ended, or offered and to be offered again later. */
    inFlight: async (nodeUid: string, now: number): Promise<number> => {
      const held = await storage.read
        .selectFrom('commands_executions')
        .select((of) => of.fn.countAll<number>().as('count'))
        .where('node_uid', '=', nodeUid)
        .where(HELD)
        .where(OPEN)
        .executeTakeFirstOrThrow();
      const offered = await storage.read
        .selectFrom('commands_executions')
        .select((of) => of.fn.countAll<number>().as('count'))
        .where('node_uid', '=', nodeUid)
        .where(QUEUED)
        .where('offered_at', 'is not', null)
        .where('due_at', '>', now)
        .executeTakeFirstOrThrow();
      return held.count + offered.count;
    },

    /** The next instant at which something falls due for the node; null when nothing is known to. For a node that is full only
     *  what it was offered before counts. */
    nextDue: async (nodeUid: string, now: number, full: boolean): Promise<number | null> => {
      const run = await storage.read
        .selectFrom('commands_executions')
        .select((of) => of.fn.min<number | null>('due_at').as('at'))
        .where('node_uid', '=', nodeUid)
        .where(QUEUED)
        .where(OPEN)
        .where('expires_at', '>', now)
        .$if(full, (query) => query.where('offered_at', 'is not', null).where('due_at', '>', now))
        .executeTakeFirstOrThrow();
      const cancel = await storage.read
        .selectFrom('commands_executions')
        .select((of) => of.fn.min<number | null>('cancel_due_at').as('at'))
        .where('node_uid', '=', nodeUid)
        .where('cancel_due_at', 'is not', null)
        .where('cancel_at', '>', now - MAX_LIFETIME_MS)
        .executeTakeFirstOrThrow();
      if (run.at === null || cancel.at === null) return run.at ?? cancel.at;
      return Math.min(run.at, cancel.at);
    },

    commandTexts: (ids: readonly string[]): Promise<CommandText[]> =>
      storage.read
        .selectFrom('commands')
        .select([
          'id',
          'command_type',
          'payload',
          'priority',
          'delivery',
          'max_retries',
          'output_limit_bytes',
          'created_at',
          'scheduled_at',
          'expires_at',
        ])
        .where(isIn(kind, 'id', [...new Set(ids)]))
        .execute(),

    /** Notes the offer and answers which of them still were to be offered. */
    markOffered: async (tx: Tx, runIds: readonly string[], now: number, redeliverAt: number): Promise<Set<string>> => {
      const rows = await tx
        .updateTable('commands_executions')
        .set({ offered_at: sql`coalesce(offered_at, ${now})`, due_at: redeliverAt })
        .where(isIn(kind, 'id', runIds))
        .where(OPEN)
        .where((where) => where.or([HELD, where('expires_at', '>', now)]))
        .returning('id')
        .execute();
      return new Set(rows.map(({ id }) => id));
    },

    markCancelsOffered: async (
      tx: Tx,
      ids: readonly string[],
      now: number,
      redeliverAt: number,
    ): Promise<Set<string>> => {
      const rows = await tx
        .updateTable('commands_executions')
        .set({ cancel_offered_at: sql`coalesce(cancel_offered_at, ${now})`, cancel_due_at: redeliverAt })
        .where(isIn(kind, 'id', ids))
        .where('cancel_due_at', 'is not', null)
        .returning('id')
        .execute();
      return new Set(rows.map(({ id }) => id));
    },
  };
};
export type DispatchRepository = ReturnType<typeof dispatchRepository>;
