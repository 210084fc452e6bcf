import type { ConfigReports } from '@aegis/protocol/backups/node-endpoints';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { AssignmentChanges } from './assignments.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { DesiredDoor } from './node-door.ts';
import type { ReportsRepository } from './reports-repository.ts';
import type { AssignmentRow } from './tables.ts';

/** What a node says of its configurations: which generation of each it holds. A report confirms a tombstone; one that shows that the node
 *  holds what we do not know of (an older backup of the database or of the node was restored) makes the same wish anew. */

type Report = ConfigReports['configs'][number];
/** Further ahead of us than this no honest node is; it gets there in several steps. */
const MAX_LEAP = 1_000_000;

export const reportsService = (on: {
  reports: ReportsRepository;
  configs: ConfigsRepository;
  assignments: AssignmentsRepository;
  changes: AssignmentChanges;
  desired: DesiredDoor;
  clock: Clock;
}) => {
  const again = async (uid: string, report: Report): Promise<void> => {
    const revisions = await on.configs.write('backups.again', async (tx) => {
      await on.configs.lock(tx, report.config_id);
      const row = (await on.assignments.allOfNodeIn(tx, uid)).find(({ config_id }) => config_id === report.config_id);
      if (!row || !needsAgain(report, row)) return [];
      const held = Math.min(report.generation, row.generation + MAX_LEAP);
      return on.changes.again(tx, row, Math.max(row.generation, held) + 1, on.clock.now());
    });
    on.desired.changed(revisions);
  };

  /** Of configurations that the node never had nothing is stored. */
  return async (actor: NodeActor, { configs }: ConfigReports): Promise<{ stored: boolean }> => {
    const now = on.clock.now();
    const told = new Map(configs.map((report) => [report.config_id, report]));
    const { stored, unsettled } = await on.reports.write('backups.reports', async (tx) => {
      const pairs = (await on.assignments.allOfNodeIn(tx, actor.uid)).flatMap((row) => {
        const report = told.get(row.config_id);
        return report ? [{ row, report }] : [];
      });
      await on.reports.store(
        tx,
        pairs.map(({ report }) => ({
          node_uid: actor.uid,
          config_id: report.config_id,
          generation: report.generation,
          reported_at: now,
          next_run_at: report.next_run_at === null ? null : Date.parse(report.next_run_at),
          refusal:
            report.refusal === null
              ? null
              : JSON.stringify({ ...report.refusal, message: storable(report.refusal.message) }),
        })),
      );
      await on.reports.confirm(
        tx,
        pairs
          .filter(({ row, report }) => row.present === 0 && row.confirmed === 0 && holds(report, row))
          .map(({ row }) => row),
      );
      return {
        stored: pairs.length > 0,
        unsettled: pairs.filter(({ row, report }) => needsAgain(report, row)).map(({ report }) => report),
      };
    });
    for (const report of unsettled) await again(actor.uid, report);
    return { stored };
  };
};
export type ReportsService = ReturnType<typeof reportsService>;

const holds = (report: Report, row: AssignmentRow): boolean =>
  report.generation === row.generation && report.refusal === null;
const needsAgain = (report: Report, row: AssignmentRow): boolean => {
  const code = report.refusal?.code;
  if (code === 'backups.stale_generation' || code === 'backups.generation_conflict')
    return report.generation >= row.generation;
  // It confirmed a tombstone and holds something older: nobody else would tell it again.
  if (row.confirmed === 1) return report.generation < row.generation;
  return report.refusal === null && report.generation > row.generation;
};
/** As any database takes it. */
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
