import { createHash } from 'node:crypto';
import type { RunLogLine } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../platform/clock.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Storage, Tx } from '../tables.ts';
import { lastOf, withinPage } from './page-size.ts';
import type { LogRow } from './tables.ts';

/** Log lines: of runs, and of nodes outside of any run (the seed's agents). A run keeps its first lines and says that it stopped there;
 *  a node keeps its newest. */

const Cursor = z.tuple([z.string()]);
const AT_ONCE = 100;

export interface Line {
  at: string;
  level: LogRow['level'];
  message: string;
  metadata?: Readonly<Record<string, unknown>> | undefined;
}
export interface LogPage {
  limit: number;
  cursor?: string | undefined;
}

export const logService = (on: {
  storage: Storage;
  clock: Clock;
  newId: () => string;
  maxPerRun: number;
  /** Lines outside of runs. */
  maxPerNode: number;
}) => {
  const { read, write } = on.storage;
  const rowOf = (line: Line, of: { nodeUid: string | null; runId: string | null }): LogRow => {
    const came = on.newId();
    // As any database takes it: text of files' names, and so not a reason to refuse the line.
    const message = storable(line.message);
    const metadata = line.metadata === undefined ? null : storable(JSON.stringify(line.metadata));
    const content = JSON.stringify([of.runId, line.at, line.level, message, metadata]);
    return {
      id: of.runId === null ? came : createHash('sha256').update(content).digest('hex'),
      came,
      node_uid: of.nodeUid,
      run_id: of.runId,
      at: Date.parse(line.at),
      level: line.level,
      message,
      metadata,
    };
  };
  const insert = async (tx: Tx, rows: readonly LogRow[]): Promise<number> => {
    let stored = 0;
    for (let at = 0; at < rows.length; at += AT_ONCE) {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('backups_log')
        .values(rows.slice(at, at + AT_ONCE))
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      stored += Number(numInsertedOrUpdatedRows ?? 0);
    }
    return stored;
  };
  const page = async (of: { runId: string } | { nodeUid: string }, { limit, cursor }: LogPage) => {
    const after = cursor === undefined ? undefined : decodeCursor(cursor, Cursor)[0];
    let rows = read.selectFrom('backups_log').selectAll();
    rows = 'runId' in of ? rows.where('run_id', '=', of.runId) : rows.where('node_uid', '=', of.nodeUid);
    if (after !== undefined) rows = rows.where('came', '>', after);
    const found = await rows.orderBy('came').limit(limit).execute();
    const fitting = withinPage(found, ({ message, metadata }) => message.length + (metadata?.length ?? 0) + 256);
    const last = lastOf(fitting, found, limit);
    return { rows: fitting, next_cursor: last ? encodeCursor([last.came]) : null };
  };

  return {
    /** @param logged how many it has; the caller holds the run's row @returns how many are new */
    addToRun: async (
      tx: Tx,
      run: { id: string; node_uid: string | null; logged: number },
      lines: readonly Line[],
    ): Promise<number> => {
      const left = Math.max(0, on.maxPerRun - run.logged);
      const of = { nodeUid: run.node_uid, runId: run.id };
      const stored = await insert(
        tx,
        lines.slice(0, left).map((line) => rowOf(line, of)),
      );
      if (run.logged + stored >= on.maxPerRun && run.logged < on.maxPerRun)
        await insert(tx, [
          rowOf(
            {
              at: isoTime(on.clock.now()),
              level: 'warning',
              message: `The log of a run takes ${on.maxPerRun} lines (backups.log_lines_per_run): what came after these is not here.`,
            },
            of,
          ),
        ]);
      return stored;
    },
    /** Of a node, outside of any run. The oldest beyond the limit go. */
    addToNode: (nodeUid: string, line: Line): Promise<void> =>
      write('backups.node-log', async (tx) => {
        await insert(tx, [rowOf(line, { nodeUid, runId: null })]);
        const oldest = await tx
          .selectFrom('backups_log')
          .select('came')
          .where('node_uid', '=', nodeUid)
          .where('run_id', 'is', null)
          .orderBy('came', 'desc')
          .offset(on.maxPerNode)
          .limit(1)
          .executeTakeFirst();
        if (oldest)
          await tx
            .deleteFrom('backups_log')
            .where('node_uid', '=', nodeUid)
            .where('run_id', 'is', null)
            .where('came', '<=', oldest.came)
            .execute();
      }),
    ofRun: async (runId: string, query: LogPage): Promise<{ items: RunLogLine[]; next_cursor: string | null }> => {
      const { rows, next_cursor } = await page({ runId }, query);
      return { items: rows.map(lineView), next_cursor };
    },
    /** Its runs' lines too, in the order in which they came. */
    ofNode: async (nodeUid: string, query: LogPage) => {
      const { rows, next_cursor } = await page({ nodeUid }, query);
      return { items: rows.map((row) => ({ ...lineView(row), run_id: row.run_id })), next_cursor };
    },
    forgetRuns: async (tx: Tx, runIds: readonly string[]): Promise<void> => {
      if (runIds.length > 0) await tx.deleteFrom('backups_log').where('run_id', 'in', runIds).execute();
    },
  };
};
export type LogService = ReturnType<typeof logService>;

const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
const lineView = (row: LogRow): RunLogLine => ({
  at: isoTime(row.at),
  level: row.level,
  message: row.message,
  metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, unknown>),
});

/** Of a run's lines, all of one request. @throws AegisError http.too_large */
export const refuseLongMetadata = (lines: readonly Line[]): void => {
  const most = 4 * 1024;
  if (lines.some(({ metadata }) => metadata !== undefined && JSON.stringify(metadata).length > most))
    throw new AegisError('http.too_large', 'The metadata of a log line takes 4 KiB. Send less of it.');
};
