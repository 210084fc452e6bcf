import type { CommandState, ExecutionState } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import { sql } from 'kysely';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import { rowsByKey } from '../platform/storage/row-statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Storage } from '../tables.ts';
import type { CommandRow, ExecutionRow } from './tables.ts';
import type { ShownCommand } from './views.ts';

/** Reads for people: commands and executions in pages, and the figures. */

export interface CommandFilter {
  state: CommandState | undefined;
  priority: number | undefined;
  /** A node's name or uid. */
  node: string | undefined;
  type: string | undefined;
  correlationId: string | undefined;
  within: Within;
}

/** A command on the nodes within, by their newest attempts. */
export interface PartWithin {
  counts: Record<string, number>;
  executed_at: number | null;
  finished_at: number | null;
  retry_count: number;
}

export type CommandText = Pick<CommandRow, 'id' | 'payload' | 'targets' | 'idempotency_key'>;

/** A command without its payload, which may be megabytes. */
export type CommandHead = Omit<
  CommandRow,
  'payload' | 'targets' | 'answer' | 'request_sha256' | 'idempotency_key' | 'operator_directive' | 'operator_cancels'
>;

const COMMAND_HEAD = [
  'id',
  'correlation_id',
  'command_type',
  'text_chars',
  'actor_kind',
  'actor_id',
  'actor_name',
  'state',
  'result',
  'priority',
  'delivery',
  'max_retries',
  'retry_backoff_ms',
  'retry_count',
  'output_limit_bytes',
  'created_at',
  'scheduled_at',
  'expires_at',
  'deadline_at',
  'executed_at',
  'completed_at',
  'error_message',
  'check_at',
] as const satisfies readonly (keyof CommandHead)[];

const SHOWN = [...COMMAND_HEAD, 'payload', 'targets', 'idempotency_key'] as const;

const TEXTS = ['id', 'payload', 'targets', 'idempotency_key'] as const satisfies readonly (keyof CommandText)[];

export const listingRepository = (storage: Storage) => {
  const { kind, read } = storage;
  const textsWith = rowsByKey(kind, { table: 'commands', columns: TEXTS, key: 'id' });
  const executionsWith = rowsByKey(kind, { table: 'commands_executions', columns: ['*'], key: 'id' });
  /** Whether a command went to a node within, and to this one where one is named.
   *  @param among the ids that are looked at, said once more of the executions: else PostgreSQL may read those of all commands */
  const wentTo = (node: string | undefined, within: Within, among: { before?: string; floor?: string } = {}) =>
    sql<boolean>`exists (select 1 from commands_executions as e where e.command_id = commands.id${
      node === undefined ? sql`` : sql` and (e.node_uid = ${node} or e.node_name = ${node})`
    }${within === null ? sql`` : sql` and ${within.holds('e.node_uid')}`}${
      among.before === undefined ? sql`` : sql` and e.command_id < ${among.before}`
    }${among.floor === undefined ? sql`` : sql` and e.command_id >= ${among.floor}`})`;
  const executionWithin = (within: Within) =>
    within === null ? sql<boolean>`1 = 1` : within.holds('commands_executions.node_uid');
  const command = (id: string, within: Within): Promise<ShownCommand | undefined> =>
    read
      .selectFrom('commands')
      .select(SHOWN)
      .where('id', '=', id)
      .$if(within !== null, (query) => query.where(wentTo(undefined, within)))
      .executeTakeFirst();

  return {
    command,
    /** @throws AegisError commands.unknown_command */
    commandOrThrow: async (id: string, within: Within): Promise<ShownCommand> => {
      const row = await command(id, within);
      if (!row) throw unknownCommand(id);
      return row;
    },

    /** The id of the command that comes so many after this one (at the start: the newest), newest first; undefined where there are fewer. */
    idAfter: async (before: string | undefined, count: number): Promise<string | undefined> => {
      const query = read
        .selectFrom('commands')
        .select('id')
        .orderBy('id', 'desc')
        .offset(count - 1)
        .limit(1);
      return (await (before === undefined ? query : query.where('id', '<', before)).executeTakeFirst())?.id;
    },

    /** Newest first, those older than `before` down to `floor`, without their texts: `texts` loads those that fit on the page. */
    commands: (
      filter: CommandFilter,
      limit: number,
      before: string | undefined,
      floor: string | undefined,
    ): Promise<CommandHead[]> => {
      let query = read.selectFrom('commands').select(COMMAND_HEAD).orderBy('id', 'desc').limit(limit);
      if (before !== undefined) query = query.where('id', '<', before);
      if (floor !== undefined) query = query.where('id', '>=', floor);
      if (filter.state !== undefined) query = query.where('state', '=', filter.state);
      if (filter.priority !== undefined) query = query.where('priority', '=', filter.priority);
      if (filter.type !== undefined) query = query.where('command_type', '=', filter.type);
      if (filter.correlationId !== undefined) query = query.where('correlation_id', '=', filter.correlationId);
      const { node, within } = filter;
      if (node !== undefined || within !== null)
        query = query.where(wentTo(node, within, { ...(before && { before }), ...(floor && { floor }) }));
      return query.execute();
    },

    partsWithin: async (ids: readonly string[], within: NodeScope): Promise<Map<string, PartWithin>> => {
      const rows = await read
        .selectFrom('commands_executions')
        .select((of) => [
          'command_id',
          'state',
          'newest',
          of.fn.countAll<number>().as('count'),
          sql<number | null>`min(coalesce(started_at, delivered_at))`.as('executed_at'),
          of.fn.max('finished_at').as('finished_at'),
        ])
        .where('command_id', 'in', ids)
        .where(executionWithin(within))
        .groupBy(['command_id', 'state', 'newest'])
        .execute();
      const parts = new Map<string, PartWithin>();
      for (const row of rows) {
        const part = parts.get(row.command_id) ?? { counts: {}, executed_at: null, finished_at: null, retry_count: 0 };
        parts.set(row.command_id, part);
        if (row.newest === 1) part.counts[row.state] = row.count;
        else part.retry_count += row.count;
        part.executed_at = extreme(Math.min, part.executed_at, row.executed_at);
        part.finished_at = extreme(Math.max, part.finished_at, row.finished_at);
      }
      return parts;
    },

    texts: async (ids: readonly string[]): Promise<CommandText[]> => {
      const [rows = []] = await together(read, [textsWith(ids)]);
      return rows as CommandText[];
    },

    /** By node and attempt, those after `after`. */
    executions: (
      commandId: string,
      limit: number,
      after: readonly [nodeUid: string, attempt: number] | undefined,
      within: Within,
    ): Promise<ExecutionRow[]> =>
      read
        .selectFrom('commands_executions')
        .selectAll()
        .where('command_id', '=', commandId)
        .$if(within !== null, (query) => query.where(executionWithin(within)))
        .$if(after !== undefined, (query) =>
          query.where(sql<boolean>`(node_uid, attempt) > (${after?.[0]}, ${after?.[1]})`),
        )
        .orderBy('node_uid')
        .orderBy('attempt')
        .limit(limit)
        .execute(),

    executionsByIds: async (ids: readonly string[], within: Within): Promise<ExecutionRow[]> => {
      if (within !== null)
        return read
          .selectFrom('commands_executions')
          .selectAll()
          .where('id', 'in', ids)
          .where(executionWithin(within))
          .execute();
      const [rows = []] = await together(read, [executionsWith(ids)]);
      return rows as ExecutionRow[];
    },

    /** Those that a log reader follows: small rows, first attempts first, each in the order of the targets. */
    executionKeys: (
      commandId: string,
      within: Within,
    ): Promise<Pick<ExecutionRow, 'id' | 'node_uid' | 'node_name' | 'attempt' | 'newest'>[]> =>
      read
        .selectFrom('commands_executions')
        .select(['id', 'node_uid', 'node_name', 'attempt', 'newest'])
        .where('command_id', '=', commandId)
        .$if(within !== null, (query) => query.where(executionWithin(within)))
        .orderBy('attempt')
        .orderBy('id')
        .execute(),

    hasNode: async (commandId: string, node: string, within: Within): Promise<boolean> => {
      const row = await read
        .selectFrom('commands_executions')
        .select('id')
        .where('command_id', '=', commandId)
        .where((where) => where.or([where('node_uid', '=', node), where('node_name', '=', node)]))
        .$if(within !== null, (query) => query.where(executionWithin(within)))
        .limit(1)
        .executeTakeFirst();
      return row !== undefined;
    },

    /** The nodes on which a command's newest attempt ended otherwise than well. */
    unsuccessfulNodes: async (commandId: string, within: Within): Promise<string[]> => {
      const rows = await read
        .selectFrom('commands_executions')
        .select('node_uid')
        .where('command_id', '=', commandId)
        .where('newest', '=', 1)
        .where('state', '<>', 'succeeded')
        .$if(within !== null, (query) => query.where(executionWithin(within)))
        .orderBy('id')
        .execute();
      return rows.map((row) => row.node_uid);
    },

    commandsByState: async (): Promise<Record<string, number>> => {
      const rows = await read
        .selectFrom('commands')
        .select((of) => ['state', of.fn.countAll<number>().as('count')])
        .groupBy('state')
        .execute();
      return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
    },

    executionFigures: async (): Promise<{ byState: Partial<Record<ExecutionState, number>>; outputBytes: number }> => {
      const rows = await read
        .selectFrom('commands_executions')
        .select((of) => [
          'state',
          of.fn.countAll<number>().as('count'),
          sql<number>`sum(stdout_next - stdout_missing + stderr_next - stderr_missing)`.as('bytes'),
        ])
        .groupBy('state')
        .execute();
      return {
        byState: Object.fromEntries(rows.map(({ state, count }) => [state, count])),
        outputBytes: rows.reduce((sum, { bytes }) => sum + bytes, 0),
      };
    },
  };
};
export const unknownCommand = (id: string): AegisError =>
  new AegisError('commands.unknown_command', `No command '${id}'. See 'aegis commands list'.`);

const extreme = (of: typeof Math.min, a: number | null, b: number | null): number | null =>
  a === null || b === null ? (a ?? b) : of(a, b);
export type ListingRepository = ReturnType<typeof listingRepository>;
