import type { CommandQuery } from '@aegis/protocol/commands/endpoints';
import { type Command, type Execution, priorityRank } from '@aegis/protocol/commands/submission';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { CommandHead, ListingRepository } from './listing-repository.ts';
import type { ScopedParts } from './scoped-part.ts';
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

/** For a caller with a scope, who may have none of them: so many commands are looked at before anybody else is answered, and so often for one
 *  page, which may then be short or empty and yet not the last. */
const WINDOW = 2000;
const LOOKS_PER_PAGE = 50;

const CommandCursor = z.tuple([z.uuid()]);
const ExecutionCursor = z.tuple([z.uuid(), z.int()]);

export const listingService = (on: {
  repository: ListingRepository;
  parts: ScopedParts;
  clock: Clock;
  window?: number;
}) => {
  const { repository, parts, clock } = on;
  /** One page of them, the ids of those that went to nodes beyond too, and where the next page begins. */
  const heads = async (
    query: CommandQuery,
    within: Within,
    from: string | undefined,
  ): Promise<{ rows: CommandHead[]; split: Set<string>; next: string | undefined }> => {
    // What a caller with a scope sees as a command's state is not what is stored of it: those rows are looked at one by one.
    const byPart = within !== null && query.status !== undefined;
    const filter = {
      state: byPart ? undefined : query.status,
      priority: query.priority && priorityRank(query.priority),
      node: query.agent,
      type: query.verb,
      correlationId: query.correlation_id,
      within,
    };
    const rows: CommandHead[] = [];
    const split = new Set<string>();
    let before = from;
    for (let looks = 0; looks < LOOKS_PER_PAGE; looks++) {
      if (looks > 0) await new Promise((resolve) => setImmediate(resolve)); // SQLite works in this thread
      const floor = within === null ? undefined : await repository.idAfter(before, on.window ?? WINDOW);
      const found = await repository.commands(filter, query.limit, before, floor);
      const seen = await parts.heads(found, within);
      for (const id of seen.split) split.add(id);
      for (const row of seen.rows) {
        if (byPart && row.state !== query.status) continue;
        rows.push(row);
        if (rows.length === query.limit) return { rows, split, next: row.id };
      }
      before = found.length === query.limit ? found.at(-1)?.id : floor;
      if (before === undefined) break;
    }
    return { rows, split, next: before };
  };
  let kept: { figures: CommandFigures; at: number } | null = null;
  return {
    /** @throws AegisError commands.unknown_command */
    command: async (id: string, within: Within): Promise<Command> =>
      commandView(await parts.commandOrThrow(id, within)),

    /** @throws AegisError http.bad_cursor */
    commands: async (
      query: CommandQuery,
      within: Within,
    ): Promise<{ items: Command[]; next_cursor: string | null }> => {
      const [before] = query.cursor === undefined ? [] : decodeCursor(query.cursor, CommandCursor);
      const { rows, split, next } = await heads(query, within, before);
      const page = withinSize(rows);
      const found = await repository.texts(page.map(({ id }) => id));
      const texts = new Map((await parts.texts(found, split, within)).map((text) => [text.id, text]));
      const items = page.flatMap((row) => {
        const text = texts.get(row.id);
        return text ? [commandView({ ...row, ...text })] : []; // deleted since
      });
      const last = page.length < rows.length ? page.at(-1)?.id : next;
      return { items, next_cursor: last ? encodeCursor([last]) : null };
    },

    /** @throws AegisError commands.unknown_command, http.bad_cursor */
    executions: async (
      commandId: string,
      page: { limit: number; cursor?: string | undefined },
      within: Within,
    ): Promise<{ items: Execution[]; next_cursor: string | null }> => {
      const after = page.cursor === undefined ? undefined : decodeCursor(page.cursor, ExecutionCursor);
      const rows = await repository.executions(commandId, page.limit, after, within);
      if (rows.length === 0) await parts.commandOrThrow(commandId, within);
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
