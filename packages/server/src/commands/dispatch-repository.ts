import { MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { sql } from 'kysely';
import { compiledOnce } from '../platform/storage/compiled.ts';
import { rowsByKey } from '../platform/storage/row-statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Storage, Tx } from '../tables.ts';
import type { CommandText } from './directives.ts';
import { OPEN } from './executions-repository.ts';

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

/** What a node may be offered now. */
export interface DueNow {
  cancels: DueCancel[];
  runs: DueRun[];
  /** How many executions the node has: acknowledged and not ended, or offered and to be offered again later. */
  inFlight: number;
}
/** Ids that are to be noted as offered. */
export interface Offer {
  ids: readonly string[];
  now: number;
  redeliverAt: number;
}

const TEXTS = [
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
  'result',
  'operator_directive',
] as const satisfies readonly (keyof CommandText)[];

const QUEUED = sql<boolean>`commands_executions.state = 'queued'`;
const HELD = sql<boolean>`commands_executions.state in ('delivered', 'running')`;

export const dispatchRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const runs = () =>
    read
      .selectFrom('commands_executions')
      .innerJoin('commands', 'commands.id', 'commands_executions.command_id')
      .select([
        'commands_executions.id',
        'commands_executions.command_id',
        'commands_executions.attempt',
        'commands.text_chars',
      ]);
  /** In the order in which they are to be offered. */
  const dueRuns = compiledOnce((of: { nodeUid: string; now: number; limit: number }) =>
    runs()
      .where('commands_executions.node_uid', '=', of.nodeUid)
      .where(QUEUED)
      .where(OPEN)
      .where('commands_executions.due_at', '<=', of.now)
      .where('commands_executions.expires_at', '>', of.now)
      .orderBy('commands_executions.priority', 'desc')
      .orderBy('commands_executions.id')
      .limit(of.limit),
  );
  /** Cancels that are due, in any order: what is offered falls due again only after the others; with `all`, acknowledged ones too, as long as the node has not reported the end. */
  const cancels = (all: boolean) =>
    compiledOnce((of: { nodeUid: string; now: number; oldest: number; limit: number }) =>
      read
        .selectFrom('commands_executions')
        .select(['id', 'command_id', 'attempt', 'cancel_id', 'cancel_at'])
        .where('node_uid', '=', of.nodeUid)
        .where('cancel_due_at', 'is not', null)
        .where('cancel_at', '>', of.oldest)
        .$if(!all, (query) => query.where('cancel_due_at', '<=', of.now))
        .limit(of.limit),
    );
  const allCancels = cancels(true);
  const dueCancels = cancels(false);
  const held = compiledOnce((of: { nodeUid: string }) =>
    read
      .selectFrom('commands_executions')
      .select((select) => select.fn.countAll<number>().as('count'))
      .where('node_uid', '=', of.nodeUid)
      .where(HELD)
      .where(OPEN),
  );
  const offeredForLater = compiledOnce((of: { nodeUid: string; now: number }) =>
    read
      .selectFrom('commands_executions')
      .select((select) => select.fn.countAll<number>().as('count'))
      .where('node_uid', '=', of.nodeUid)
      .where(QUEUED)
      .where('offered_at', 'is not', null)
      .where('due_at', '>', of.now),
  );
  const nextRun = (full: boolean) =>
    compiledOnce((of: { nodeUid: string; now: number }) =>
      read
        .selectFrom('commands_executions')
        .select((select) => select.fn.min<number | null>('due_at').as('at'))
        .where('node_uid', '=', of.nodeUid)
        .where(QUEUED)
        .where(OPEN)
        .where('expires_at', '>', of.now)
        .$if(full, (query) => query.where('offered_at', 'is not', null).where('due_at', '>', of.now)),
    );
  const nextRunOfAny = nextRun(false);
  const nextRunOffered = nextRun(true);
  const nextCancel = compiledOnce((of: { nodeUid: string; oldest: number }) =>
    read
      .selectFrom('commands_executions')
      .select((select) => select.fn.min<number | null>('cancel_due_at').as('at'))
      .where('node_uid', '=', of.nodeUid)
      .where('cancel_due_at', 'is not', null)
      .where('cancel_at', '>', of.oldest),
  );
  const targets = compiledOnce((of: { commandId: string; limit: number }) =>
    read
      .selectFrom('commands_executions')
      .select('node_uid')
      .where('command_id', '=', of.commandId)
      .where('attempt', '=', 1)
      .limit(of.limit),
  );
  const textsWith = rowsByKey(kind, { table: 'commands', columns: TEXTS, key: 'id' });

  const RUN_STANDS = `state in ('queued', 'delivered', 'running')
    and (state in ('delivered', 'running') or expires_at >`;
  const runsOffered =
    kind === 'sqlite'
      ? `update commands_executions set offered_at = coalesce(offered_at, ?), due_at = ?
         where id = ? and ${RUN_STANDS} ?) returning id`
      : `update commands_executions set offered_at = coalesce(offered_at, j.now), due_at = j.redeliver_at
         from unnest($1::bigint[], $2::bigint[], $3::text[]) as j(now, redeliver_at, id)
         where commands_executions.id = j.id and ${RUN_STANDS} j.now) returning commands_executions.id`;
  const cancelsOffered =
    kind === 'sqlite'
      ? `update commands_executions set cancel_offered_at = coalesce(cancel_offered_at, ?), cancel_due_at = ?
         where id = ? and cancel_due_at is not null returning id`
      : `update commands_executions
         set cancel_offered_at = coalesce(cancel_offered_at, j.now), cancel_due_at = j.redeliver_at
         from unnest($1::bigint[], $2::bigint[], $3::text[]) as j(now, redeliver_at, id)
         where commands_executions.id = j.id and cancel_due_at is not null returning commands_executions.id`;
  const marked = async (tx: Tx, text: string, offers: readonly Offer[], again: boolean): Promise<Set<string>> => {
    const rows = offers.flatMap(({ ids, now, redeliverAt }) => ids.map((id) => ({ now, redeliverAt, id })));
    if (rows.length === 0) return new Set();
    const runs =
      kind === 'sqlite'
        ? rows.map(({ now, redeliverAt, id }) => [now, redeliverAt, id, ...(again ? [now] : [])])
        : [[rows.map(({ now }) => now), rows.map(({ redeliverAt }) => redeliverAt), rows.map(({ id }) => id)]];
    const [found = []] = await together(tx, [{ sql: text, runs }]);
    return new Set((found as { id: string }[]).map(({ id }) => id));
  };

  return {
    /** @param all also acknowledged cancels */
    dueNow: async (nodeUid: string, now: number, limit: number, all: boolean): Promise<DueNow> => {
      const oldest = now - MAX_LIFETIME_MS; // an older cancel's directive has expired
      const [cancelled = [], due = [], [have] = [], [later] = []] = await together(read, [
        (all ? allCancels : dueCancels).statement({ nodeUid, now, oldest, limit }),
        dueRuns.statement({ nodeUid, now, limit }),
        held.statement({ nodeUid }),
        offeredForLater.statement({ nodeUid, now }),
      ]);
      const count = (row: unknown) => (row as { count: number }).count;
      return {
        cancels: cancelled as DueCancel[], // id and time are set with cancel_due_at
        runs: due as DueRun[],
        inFlight: count(have) + count(later),
      };
    },

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

    /** The next instant at which something falls due for the node; null when nothing is known to. For a node that is full only
     *  what it was offered before counts. */
    nextDue: async (nodeUid: string, now: number, full: boolean): Promise<number | null> => {
      const found = await together(read, [
        (full ? nextRunOffered : nextRunOfAny).statement({ nodeUid, now }),
        nextCancel.statement({ nodeUid, oldest: now - MAX_LIFETIME_MS }),
      ]);
      const instants = found.flatMap((rows) => (rows as { at: number | null }[]).flatMap(({ at }) => at ?? []));
      return instants.length === 0 ? null : Math.min(...instants);
    },

    commandTexts: async (ids: readonly string[]): Promise<CommandText[]> => {
      const [rows = []] = await together(read, [textsWith(ids)]);
      return rows as CommandText[];
    },

    /** By command: JSON of operators' own cancels, of those that have any. */
    operatorCancels: async (ids: readonly string[]): Promise<Map<string, string>> => {
      if (ids.length === 0) return new Map();
      const rows = await read
        .selectFrom('commands')
        .select(['id', 'operator_cancels'])
        .where('id', 'in', [...new Set(ids)])
        .where('operator_cancels', 'is not', null)
        .execute();
      return new Map(rows.map(({ id, operator_cancels }) => [id, operator_cancels ?? '']));
    },

    /** The nodes that a command was submitted to, at most `limit`. */
    targetsOf: async (commandId: string, limit: number): Promise<string[]> =>
      (await targets(read, { commandId, limit })).map((row) => row.node_uid),

    /** Notes the offers and answers which of the executions still were to be offered. */
    markOffered: (tx: Tx, offers: readonly Offer[]): Promise<Set<string>> => marked(tx, runsOffered, offers, true),
    markCancelsOffered: (tx: Tx, offers: readonly Offer[]): Promise<Set<string>> =>
      marked(tx, cancelsOffered, offers, false),
  };
};
export type DispatchRepository = ReturnType<typeof dispatchRepository>;
