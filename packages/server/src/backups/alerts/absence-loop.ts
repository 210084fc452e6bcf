import type { Clock } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import { loop } from '../../platform/loop.ts';
import type { AssignmentsRepository } from '../assignments-repository.ts';
import { specOf } from '../config-views.ts';
import type { ConfigsRepository } from '../configs-repository.ts';
import type { RunsRepository } from '../runs-repository.ts';
import type { ConfigRow } from '../tables.ts';
import type { AlertsRepository } from './repository.ts';
import type { AlertsService } from './service.ts';

/** Looks for nodes whose backup has not succeeded within the time that its configuration expects, those too that never ran: then the time
 *  counts from the assignment. A paused configuration expects nothing. */

const EVERY_MS = 60_000;
const NODES_AT_ONCE = 500;

export const absenceDetection = (on: {
  configs: ConfigsRepository;
  assignments: Pick<AssignmentsRepository, 'page'>;
  runs: Pick<RunsRepository, 'newestOfNodes' | 'latestGood'>;
  repository: AlertsRepository;
  alerts: AlertsService;
  clock: Clock;
  log: Log;
}) => {
  const { clock } = on;
  const keyOf = (configId: string, nodeUid: string) => `${configId}/${nodeUid}`;

  interface Late {
    node: { uid: string; name: string } | null;
    since: number;
    never: boolean;
  }
  const lateNodes = async function* (config: ConfigRow, expectMs: number): AsyncGenerator<Late> {
    const isLate = (since: number) => clock.now() - since > expectMs;
    if (config.mode === 'server') {
      const good = await on.runs.latestGood(config.id, undefined, null);
      const since = Math.max(good?.started_at ?? 0, config.created_at);
      if (isLate(since)) yield { node: null, since, never: !good };
      return;
    }
    let after: [string, string] | undefined;
    do {
      const rows = await on.assignments.page(config.id, NODES_AT_ONCE, after, null);
      const { good } = await on.runs.newestOfNodes(
        config.id,
        rows.map(({ node_uid }) => node_uid),
      );
      for (const { node_uid: uid, node_name: name, assigned_at } of rows) {
        const best = good.get(uid);
        const since = Math.max(best?.started_at ?? 0, assigned_at);
        if (isLate(since)) yield { node: { uid, name }, since, never: !best };
      }
      const last = rows.length === NODES_AT_ONCE ? rows.at(-1) : undefined;
      after = last && [last.node_name, last.node_uid];
    } while (after);
  };

  const turn = async (): Promise<void> => {
    const open = new Map((await on.repository.absences()).map((row) => [keyOf(row.config_id, row.node_uid), row]));
    for await (const config of on.configs.each()) {
      const spec = specOf(config);
      const expectSec = spec.alerts.expect_within_sec;
      if (expectSec === undefined || spec.paused) continue;
      for await (const { node, since, never } of lateNodes(config, expectSec * 1000)) {
        const key = keyOf(config.id, node?.uid ?? '');
        if (!open.delete(key)) await on.alerts.overdue(config, node, { since, expectSec, never });
      }
    }
    // Nothing is expected any more: unassigned, paused, deleted, or with more time.
    for (const row of open.values()) await on.repository.forget(row);
  };
  return {
    turn,
    start: (signal: AbortSignal): void =>
      loop({ name: 'backups.absence', everyMs: EVERY_MS, turn, signal, log: on.log }),
  };
};
export type AbsenceDetection = ReturnType<typeof absenceDetection>;
