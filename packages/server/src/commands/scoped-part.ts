import { looksLikeSelector } from '@aegis/protocol/commands/selector';
import { type CommandState, commandStateOf, type ExecutionState, isFinalCommand } from '@aegis/protocol/commands/state';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import { type CommandHead, type CommandText, type ListingRepository, unknownCommand } from './listing-repository.ts';
import type { ShownCommand } from './views.ts';

/** What callers with a scope see of commands: each as if it had gone to the nodes within alone. One that went to others too shows neither
 *  their number nor their fate, nor when the whole of it ended. Callers without a scope see the rows as they are. */

type Part = Pick<
  CommandHead,
  'id' | 'state' | 'result' | 'executed_at' | 'completed_at' | 'retry_count' | 'error_message'
>;
type Text = Pick<CommandText, 'id' | 'targets' | 'idempotency_key'>;

export const scopedParts = (on: {
  repository: Pick<ListingRepository, 'command' | 'partsWithin'>;
  /** Names and uids of the nodes within. */
  namesWithin: (within: NodeScope) => Promise<ReadonlySet<string>>;
}) => {
  /** Those that went to a node within, and the ids of those that went to others too. */
  const heads = async <R extends Part>(
    rows: readonly R[],
    within: Within,
  ): Promise<{ rows: R[]; split: Set<string> }> => {
    const split = new Set<string>();
    if (within === null || rows.length === 0) return { rows: [...rows], split };
    const parts = await on.repository.partsWithin(
      rows.map(({ id }) => id),
      within,
    );
    const seen = rows.flatMap((row) => {
      const part = parts.get(row.id);
      if (!part) return []; // none of its nodes is within any more
      const { counts, executed_at, finished_at, retry_count } = part;
      if (sumOf(counts) === sumOf(JSON.parse(row.result) as Record<string, number>)) return [row];
      split.add(row.id);
      const state: CommandState = commandStateOf(Object.keys(counts) as ExecutionState[]);
      const completed_at = isFinalCommand(state) ? finished_at : null;
      const result = JSON.stringify(counts);
      return [{ ...row, state, result, executed_at, completed_at, retry_count, error_message: null }];
    });
    return { rows: seen, split };
  };
  /** Selectors say of others than those within; an idempotency key is its submitter's. */
  const texts = async <T extends Text>(
    rows: readonly T[],
    split: ReadonlySet<string>,
    within: Within,
  ): Promise<T[]> => {
    if (within === null) return [...rows];
    const names = split.size === 0 ? new Set<string>() : await on.namesWithin(within);
    const isWithin = (text: string) => !looksLikeSelector(text) && names.has(text);
    return rows.map((row) => ({
      ...row,
      idempotency_key: null,
      ...(split.has(row.id) ? { targets: JSON.stringify((JSON.parse(row.targets) as string[]).filter(isWithin)) } : {}),
    }));
  };
  const command = async (id: string, within: Within): Promise<ShownCommand | undefined> => {
    const row = await on.repository.command(id, within);
    if (!row || within === null) return row;
    const { rows, split } = await heads([row], within);
    return (await texts(rows, split, within))[0];
  };
  return {
    heads,
    texts,
    command,
    /** @throws AegisError commands.unknown_command */
    commandOrThrow: async (id: string, within: Within): Promise<ShownCommand> => {
      const row = await command(id, within);
      if (!row) throw unknownCommand(id);
      return row;
    },
  };
};
export type ScopedParts = ReturnType<typeof scopedParts>;

const sumOf = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((sum, count) => sum + count, 0);
