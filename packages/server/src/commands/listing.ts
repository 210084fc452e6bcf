import type { CommandQuery } from '@aegis/protocol/commands/endpoints';
import { type Command, type Execution, priorityRank } from '@aegis/protocol/commands/submission';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { ListingRepository } from './listing-repository.ts';
import { commandView, executionView } from './views.ts';

/** Lists, single commands, and the figures that the statistics page shows. */

export interface CommandFigures {
  commands: { by_state: Record<string, number> };
  executions: { by_state: Record<string, number> };
  outputBytes: number;
}

/** The figures read whole tables: asked for more often than this, the same ones are given. */
const FIGURES_KEPT_MS = 5000;

/** Payloads of one page together: a page ends early, with a cursor, before it grows beyond this. */
const PAGE_CHARS = 16 * 1024 * 1024;

const withinSize = <R extends { text_chars: number }>(rows: readonly R[]): readonly R[] => {
  let chars = 0;
  const tooMuch = rows.findIndex((row) => {
    chars += row.text_chars;
    return chars > PAGE_CHARS;
  });
  return tooMuch < 0 ? rows : rows.slice(0, Math.max(1, tooMuch));
};

const CommandCursor = z.tuple([z.uuid()]);
const ExecutionCursor = z.tuple([z.uuid(), z.int()]);

export const listingService = (on: { repository: ListingRepository; clock: Clock }) => {
  const { repository, clock } = on;
  let kept: { figures: CommandFigures; at: number } | null = null;
  return {
    /** @throws AegisError commands.unknown_command */
    command: async (id: string): Promise<Command> => commandView(await repository.commandOrThrow(id)),

    /** @throws AegisError http.bad_cursor */
    commands: async (query: CommandQuery): Promise<{ items: Command[]; next_cursor: string | null }> => {
      const [before] = query.cursor === undefined ? [] : decodeCursor(query.cursor, CommandCursor);
      const rows = await repository.commands(
        {
          state: query.status,
          priority: query.priority && priorityRank(query.priority),
          node: query.agent,
          type: query.verb,
          correlationId: query.correlation_id,
        },
        query.limit,
        before,
      );
      const page = withinSize(rows);
      const texts = new Map((await repository.texts(page.map(({ id }) => id))).map((text) => [text.id, text]));
      const items = page.flatMap((row) => {
        const text = texts.get(row.id);
        return text ? [commandView({ ...row, ...text })] : []; // deleted since
      });
      const last = page.length < rows.length || rows.length === query.limit ? page.at(-1) : undefined;
      return { items, next_cursor: last ? encodeCursor([last.id]) : null };
    },

    /** @throws AegisError commands.unknown_command, http.bad_cursor */
    executions: async (
      commandId: string,
      page: { limit: number; cursor?: string | undefined },
    ): Promise<{ items: Execution[]; next_cursor: string | null }> => {
      const after = page.cursor === undefined ? undefined : decodeCursor(page.cursor, ExecutionCursor);
      const rows = await repository.executions(commandId, page.limit, after);
      if (rows.length === 0) await repository.commandOrThrow(commandId);
      const last = rows.length === page.limit ? rows.at(-1) : undefined;
      return {
        items: rows.map(executionView),
        next_cursor: last ? encodeCursor([last.node_uid, last.attempt]) : null,
      };
    },

    figures: async (): Promise<CommandFigures> => {
      const now = clock.now();
      if (kept && now - kept.at >= 0 && now - kept.at < FIGURES_KEPT_MS) return kept.figures;
      const { byState, outputBytes } = await repository.executionFigures();
      const figures = {
        commands: { by_state: await repository.commandsByState() },
        executions: { by_state: byState },
        outputBytes,
      };
      kept = { figures, at: now };
      return figures;
    },
  };
};
export type ListingService = ReturnType<typeof listingService>;
