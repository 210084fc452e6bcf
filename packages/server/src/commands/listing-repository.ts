import type { CommandState, ExecutionState } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import { sql } from 'kysely';
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
}

export type CommandText = Pick<CommandRow, 'id' | 'payload' | 'targets' | 'idempotency_key'>;

/** A command without its payload, which may be megabytes. */
export type CommandHead = Omit<CommandRow, 'payload' | 'targets' | 'answer' | 'request_sha256' | 'idempotency_key'>;

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
  const command = (id: string): Promise<ShownCommand | undefined> =>
    read.selectFrom('commands').select(SHOWN).where('id', '=', id).executeTakeFirst();

  return {
    command,
    /** @throws AegisError commands.unknown_command */
    commandOrThrow: async (id: string): Promise<ShownCommand> => {
      const row = await command(id);
      if (!row) throw new AegisError('commands.unknown_command', `No command '${id}'. See 'aegis commands list'.`);
      return row;
    },

    /** Newest first, those older than `before`, without their texts: `texts` loads those that fit on the page. */
    commands: (filter: CommandFilter, limit: number, before: string | undefined): Promise<CommandHead[]> => {
      let query = read.selectFrom('commands').select(COMMAND_HEAD).orderBy('id', 'desc').limit(limit);
      if (before !== undefined) query = query.where('id', '<', before);
      if (filter.state !== undefined) query = query.where('state', '=', filter.state);
      if (filter.priority !== undefined) query = query.where('priority', '=', filter.priority);
      if (filter.type !== undefined) query = query.where('command_type', '=', filter.type);
      if (filter.correlationId !== undefined) query = query.where('correlation_id', '=', filter.correlationId);
      const { node } = filter;
      if (node !== undefined)
        query = query.where((of) =>
          of.exists(
            of
              .selectFrom('commands_executions as e')
              .select(sql<number>`1`.as('one'))
              .whereRef('e.command_id', '=', 'commands.id')
              .where((where) => where.or([where('e.node_uid', '=', node), where('e.node_name', '=', node)])),
          ),
        );
      return query.execute();
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
    ): Promise<ExecutionRow[]> =>
      read
        .selectFrom('commands_executions')
        .selectAll()
        .where('command_id', '=', commandId)
        .$if(after !== undefined, (query) =>
          query.where(sql<boolean>`(node_uid, attempt) > (${after?.[0]}, ${after?.[1]})`),
        )
        .orderBy('node_uid')
        .orderBy('attempt')
        .limit(limit)
        .execute(),

    executionsByIds: async (ids: readonly string[]): Promise<ExecutionRow[]> => {
      const [rows = []] = await together(read, [executionsWith(ids)]);
      return rows as ExecutionRow[];
    },

    /** Those that a log reader follows: small rows, first attempts first, each in the order of the targets. */
    executionKeys: (
      commandId: string,
    ): Promise<Pick<ExecutionRow, 'id' | 'node_uid' | 'node_name' | 'attempt' | 'newest'>[]> =>
      read
        .selectFrom('commands_executions')
        .select(['id', 'node_uid', 'node_name', 'attempt', 'newest'])
        .where('command_id', '=', commandId)
        .orderBy('attempt')
        .orderBy('id')
        .execute(),

    hasNode: async (commandId: string, node: string): Promise<boolean> => {
      const row = await read
        .selectFrom('commands_executions')
        .select('id')
        .where('command_id', '=', commandId)
        .where((where) => where.or([where('node_uid', '=', node), where('node_name', '=', node)]))
        .limit(1)
        .executeTakeFirst();
      return row !== undefined;
    },

    /** The nodes on which a command's newest attempt ended otherwise than well. */
    unsuccessfulNodes: async (commandId: string): Promise<string[]> => {
      const rows = await read
        .selectFrom('commands_executions')
        .select('node_uid')
        .where('command_id', '=', commandId)
        .where('newest', '=', 1)
        .where('state', '<>', 'succeeded')
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
export type ListingRepository = ReturnType<typeof listingRepository>;
