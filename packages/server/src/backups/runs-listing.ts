import type { ConfigNode, RunQuery } from '@aegis/protocol/backups/endpoints';
import { isGood, type Run } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import * as z from 'zod/mini';
import { type Clock, isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import { specOf } from './config-views.ts';
import { unknownConfig } from './configs.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { DestinationsRepository } from './destinations-repository.ts';
import type { LogPage, LogService } from './log.ts';
import type { NodeDoor } from './node-door.ts';
import { lastOf, withinPage } from './page-size.ts';
import type { ReportsRepository } from './reports-repository.ts';
import { ended, isFinal, unknownRun } from './run-refusals.ts';
import { runView } from './run-views.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { ConfigRow, RunRow } from './tables.ts';

/** Runs as people see them, and how they end one. */

const RunCursor = z.tuple([z.int(), z.string()]);
const NodeCursor = z.tuple([z.string(), z.string()]);
const LATEST = 'latest:';
const ERRORS_BESIDE = 3;

export const runsListing = (on: {
  runs: RunsRepository;
  configs: ConfigsRepository;
  destinations: DestinationsRepository;
  assignments: AssignmentsRepository;
  reports: ReportsRepository;
  log: LogService;
  nodes: NodeDoor;
  clock: Clock;
}) => {
  const { runs, configs } = on;

  /** A deleted one too: its runs are still there. @throws AegisError backups.unknown_config */
  const configEver = async (id: string, within: Within): Promise<ConfigRow> => {
    const row = await configs.everBy(isUuid(id) ? 'id' : 'name', id);
    if (!row || (within && !(await configs.isWithin(row.id, within)))) throw unknownConfig(id);
    return row;
  };
  /** A retired one's name too, where no other node bears it now: archives outlive their node. @throws AegisError nodes.unknown_node */
  const nodeEver = async (text: string, within: Within): Promise<{ uid: string; name: string }> => {
    try {
      return await on.nodes.find(text, within);
    } catch (error) {
      const found = await runs.nodeNamed(text, within);
      if (!found) throw error;
      return found;
    }
  };
  /** `latest:CONFIG` and `latest:CONFIG@NODE`. A configuration's name has no '@'. */
  const latest = async (text: string, within: Within): Promise<RunRow> => {
    const [config = '', node] = text.slice(LATEST.length).split(/@(.*)/s);
    const { id, name } = await configEver(config, within);
    const found = node === undefined ? null : await nodeEver(node, within);
    const run = await runs.latestGood(id, found?.uid, within);
    if (!run)
      throw new AegisError(
        'backups.unknown_run',
        `'${name}' has no backup ${found ? `of '${found.name}' ` : ''}that can be restored yet. See 'aegis backups runs --config ${name}'.`,
      );
    return run;
  };
  /** By id, or `latest:…`. @throws AegisError backups.unknown_run, unknown_config, nodes.unknown_node */
  const find = async (id: string, within: Within): Promise<RunRow> => {
    if (id.startsWith(LATEST)) return latest(id, within);
    const row = isUuid(id) ? await runs.byIdWithin(id, within) : undefined;
    if (!row) throw unknownRun(id);
    return row;
  };
  const views = async (rows: readonly RunRow[]): Promise<Run[]> => {
    const places = await on.destinations.byIds(rows.map(({ destination_id }) => destination_id));
    return rows.map((row) => runView(row, places.get(row.destination_id)));
  };
  const shown = async (row: RunRow): Promise<Run> => runView(row, await on.destinations.byId(row.destination_id));

  return {
    find,
    shown,
    list: async ({ config, node, state, removed, limit, cursor }: RunQuery, within: Within) => {
      const rows = await runs.page(
        {
          configId: config === undefined ? undefined : (await configEver(config, within)).id,
          nodeUid: node === undefined ? undefined : (await nodeEver(node, within)).uid,
          state,
          removed: removed === 'true',
          within,
        },
        limit,
        cursor === undefined ? undefined : decodeCursor(cursor, RunCursor),
      );
      const fitting = withinPage(rows, ({ errors }) => errors.length + 4096);
      const last = lastOf(fitting, rows, limit);
      return { items: await views(fitting), next_cursor: last ? encodeCursor([last.started_at, last.id]) : null };
    },
    show: async (id: string, within: Within): Promise<Run> => shown(await find(id, within)),
    /** A repeat changes nothing. @throws AegisError backups.unknown_run, run_ended */
    cancel: async (by: string, id: string, within: Within): Promise<Run> => {
      const { id: runId } = await find(id, within);
      const after = await runs.write('backups.cancel', async (tx) => {
        const run = await runs.lock(tx, runId);
        if (!run) throw unknownRun(id);
        if (run.cancelled_at !== null) return run;
        if (isFinal(run.state)) throw ended(run);
        const change = { cancelled_at: on.clock.now(), cancelled_by: by };
        await runs.update(tx, runId, change);
        return { ...run, ...change };
      });
      return shown(after);
    },
    log: async (id: string, query: LogPage, within: Within) => on.log.ofRun((await find(id, within)).id, query),
    /** @throws AegisError nodes.unknown_node */
    nodeLog: async (node: string, query: LogPage, within: Within) =>
      on.log.ofNode((await on.nodes.find(node, within)).uid, query),

    /** How each node stands under a configuration. */
    nodesOf: async (
      id: string,
      { limit, cursor }: LogPage,
      within: Within,
    ): Promise<{ items: ConfigNode[]; next_cursor: string | null }> => {
      const config = isUuid(id) ? await configs.byId(id) : await configs.byName(id);
      if (!config || (within && !(await configs.isWithin(config.id, within)))) throw unknownConfig(id);
      const after = cursor === undefined ? undefined : decodeCursor(cursor, NodeCursor);
      const rows = await on.assignments.page(config.id, limit, after, within);
      const uids = rows.map(({ node_uid }) => node_uid);
      const [{ last, good }, reports, online] = await Promise.all([
        runs.newestOfNodes(config.id, uids),
        on.reports.ofConfig(config.id, uids),
        on.nodes.onlineOf(uids),
      ]);
      const place = await on.destinations.byIds([...last.values()].map(({ destination_id }) => destination_id));
      const expectSec = specOf(config).alerts.expect_within_sec;
      const now = on.clock.now();
      const end = rows.length === limit ? rows.at(-1) : undefined;
      return {
        items: rows.map((row) => {
          const [newest, best, report] = [last.get(row.node_uid), good.get(row.node_uid), reports.get(row.node_uid)];
          return {
            node: row.node_name,
            node_uid: row.node_uid,
            online: online.has(row.node_uid),
            generation: row.generation,
            taken: report?.generation === row.generation && report.refusal === null,
            next_run_at: isoTimeOrNull(report?.next_run_at ?? null),
            last_run: newest ? briefly(runView(newest, place.get(newest.destination_id))) : null,
            last_good: best ? { run_id: best.id, started_at: isoTime(best.started_at) } : null,
            overdue:
              expectSec !== undefined && now - Math.max(best?.started_at ?? 0, row.assigned_at) > expectSec * 1000,
            refusal: report?.refusal ? (JSON.parse(report.refusal) as ConfigNode['refusal']) : null,
          };
        }),
        next_cursor: end ? encodeCursor([end.node_name, end.node_uid]) : null,
      };
    },
  };
};
export type RunsListing = ReturnType<typeof runsListing>;

/** Beside others: the first of its errors. */
const briefly = (run: Run): Run => ({ ...run, errors: run.errors.slice(0, ERRORS_BESIDE) });

/** Whether a run can be restored from now. */
export const isRestorable = (run: RunRow): boolean => isGood(run.state) && run.removed_at === null;
