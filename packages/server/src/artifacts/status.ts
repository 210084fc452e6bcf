import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import type { KernelReport, StatusReport } from '@aegis/protocol/artifacts/status';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { type Clock, isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Tell, Told } from '../platform/told.ts';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { DesiredState } from './desired.ts';
import type { Change, DesiredChanges } from './desired-changes.ts';
import type { LibraryService } from './library.ts';
import type { NodeDoor } from './node-door.ts';
import type { ReportRow, StatusFilter, StatusRepository, StatusRow } from './status-repository.ts';
import type { AssignmentRow } from './tables.ts';

/** What nodes report of their assignments and of their kernels, and how people see it. */

const Cursor = z.tuple([z.string(), z.uuid()]);
/** Of a report without its log; a thousand attachments are a quarter of it. */
const MAX_REPORT_CHARS = 1024 * 1024;
const MAX_KERNEL_CHARS = 64 * 1024;
const PAGE_CHARS = 8 * 1024 * 1024;

export interface Page {
  limit: number;
  cursor?: string | undefined;
}

export const statusService = (on: {
  repository: StatusRepository;
  assignments: AssignmentsRepository;
  changes: DesiredChanges;
  desired: DesiredState;
  library: LibraryService;
  nodes: NodeDoor;
  tell: Tell;
  clock: Clock;
}) => {
  const { repository, assignments } = on;

  const page = async (
    filter: StatusFilter,
    { limit, cursor }: Page,
  ): Promise<{ items: NodeArtifact[]; next_cursor: string | null }> => {
    const found = await repository.page(filter, limit, cursor === undefined ? undefined : decodeCursor(cursor, Cursor));
    const rows = withinSize(found);
    const texts = new Map((await repository.texts(rows)).map((text) => [`${text.node_uid}/${text.name}`, text]));
    const online = await on.nodes.onlineOf(rows.map(({ node_uid }) => node_uid));
    const last = rows.length < found.length || found.length === limit ? rows.at(-1) : undefined;
    return {
      items: rows.map((row) => {
        const text = texts.get(`${row.node_uid}/${row.name}`);
        return {
          node: row.node_name,
          node_uid: row.node_uid,
          online: online.has(row.node_uid),
          name: row.name,
          version: row.present === 1 ? row.version : null,
          generation: row.generation,
          state: row.state,
          constants: JSON.parse(row.constants) as NodeArtifact['constants'],
          report: text ? reportOf(text) : null,
          reported_at: text ? isoTimeOrNull(row.reported_at) : null,
        };
      }),
      next_cursor: last ? encodeCursor([last.name, last.node_uid]) : null,
    };
  };

  const anew = (tx: Tx, row: AssignmentRow): Promise<Change[]> =>
    on.changes(tx, {
      name: row.name,
      hosts: [{ uid: row.node_uid, name: row.node_name }],
      by: row.assigned_by,
      now: on.clock.now(),
      wishFor: (before) => (before?.generation === row.generation ? { kind: 'anew' } : null),
    });

  return {
    /** A report of an older generation is not stored. One that refuses the generation because the node holds a newer one, as after the
     *  restore of an older backup, makes the same wish anew, until its generation is one that the node takes.
     *  @param address the artifact's id, or its name
     *  @throws AegisError artifacts.not_assigned, unknown_artifact, generation_conflict, http.too_large */
    report: async (nodeUid: string, address: string, report: StatusReport): Promise<{ stored: boolean }> => {
      const { verifier_log: sent, ...rest } = report;
      // As any database takes it; the kernel's own text, and so not a reason to refuse the report.
      const verifier_log = sent?.replaceAll('\0', '\uFFFD').toWellFormed() ?? null;
      const text = JSON.stringify(rest);
      if (text.length > MAX_REPORT_CHARS)
        throw new AegisError(
          'http.too_large',
          'A report takes 1 MiB beside its log. Report fewer attachments or maps.',
        );
      const { stored, changes } = await repository.write('artifacts.status', async (tx) => {
        const row = await assignments.oneIn(tx, nodeUid, report.name);
        if (!row) throw notAssigned(report.name);
        if (report.generation < row.generation)
          return { stored: false, changes: hasAgain(report, row) ? await anew(tx, row) : [] };
        if (report.generation > row.generation)
          throw new AegisError(
            'artifacts.generation_conflict',
            `'${report.name}' is in generation ${row.generation} here, the report is of ${report.generation}, which this server never issued.`,
          );
        // A node that never saw more than the tombstone knows no id: it reports by name.
        if (row.artifact_id !== address && row.name !== address) {
          await on.library.find(address);
          throw notAssigned(report.name);
        }
        const before = await repository.reportIn(tx, nodeUid, report.name);
        if (isNews(before, report)) await on.tell(tx, [toldOf(row, report)]);
        await repository.store(tx, {
          node_uid: nodeUid,
          name: report.name,
          generation: report.generation,
          state: report.state,
          reported_at: on.clock.now(),
          chars: text.length + (verifier_log?.length ?? 0),
          report: text,
          verifier_log,
        });
        if (report.state === 'detached' && row.present === 0)
          await assignments.confirm(tx, nodeUid, report.name, row.generation);
        return { stored: true, changes: refusesGeneration(report) ? await anew(tx, row) : [] };
      });
      on.desired.changed(changes.map(({ after, revision }) => [after.node_uid, revision]));
      return { stored };
    },
    /** @throws AegisError artifacts.unknown_artifact, http.bad_cursor */
    ofArtifact: async (id: string, query: Page, within: Within) => {
      await on.library.find(id);
      return page({ artifactId: id, within }, query);
    },
    /** @throws AegisError http.bad_cursor */
    all: (query: Omit<StatusFilter, 'within'> & Page, within: Within) => page({ ...query, within }, query),

    putKernel: async (nodeUid: string, report: KernelReport): Promise<{ stored: boolean }> => {
      const text = JSON.stringify(report);
      if (text.length > MAX_KERNEL_CHARS)
        throw new AegisError('http.too_large', 'A kernel report takes 64 KiB at most. Send fewer kinds.');
      await repository.write('artifacts.kernel', (tx) =>
        repository.storeKernel(tx, { node_uid: nodeUid, report: text, reported_at: on.clock.now() }),
      );
      return { stored: true };
    },
    /** @throws AegisError nodes.unknown_node */
    kernel: async (
      node: string,
      within: Within,
    ): Promise<{ kernel: KernelReport | null; reported_at: string | null }> => {
      const found = await repository.kernelOf((await on.nodes.find(node, within)).uid);
      return found
        ? { kernel: JSON.parse(found.report) as KernelReport, reported_at: isoTime(found.reported_at) }
        : { kernel: null, reported_at: null };
    },
  };
};
export type StatusService = ReturnType<typeof statusService>;

/** A node that confirmed a tombstone and has the artifact all the same was restored from before it: nobody else would tell it again. */
const hasAgain = ({ state }: StatusReport, row: AssignmentRow): boolean => row.confirmed === 1 && state !== 'detached';
const refusesGeneration = ({ reason }: StatusReport): boolean =>
  reason?.code === 'artifacts.stale_generation' || reason?.code === 'artifacts.generation_conflict';

/** Another state, or another failure; the same report comes again when its answer was lost, and when counters change. */
const isNews = (before: ReportRow | undefined, { generation, state, reason }: StatusReport): boolean => {
  if (before?.generation !== generation || before.state !== state) return true;
  if (state !== 'failed') return false;
  const former = (JSON.parse(before.report) as StatusReport).reason; // as validated when it came
  return former?.code !== reason?.code || former?.message !== reason?.message;
};
const toldOf = (row: AssignmentRow, { name, version, generation, state, reason }: StatusReport): Told => ({
  type: `attachment.${state}`,
  node: { uid: row.node_uid, name: row.node_name },
  data: {
    artifact: name,
    version: version ?? null,
    generation,
    reason: reason ? { code: reason.code, message: reason.message } : null,
  },
});

const reportOf = ({ report, verifier_log }: { report: string; verifier_log: string | null }): StatusReport => ({
  ...(JSON.parse(report) as StatusReport), // as validated when it came
  ...(verifier_log === null ? {} : { verifier_log }),
});

const withinSize = (rows: readonly StatusRow[]): StatusRow[] => {
  let chars = 0;
  const tooMuch = rows.findIndex((row) => {
    chars += row.chars ?? 0;
    return chars > PAGE_CHARS;
  });
  return tooMuch < 0 ? [...rows] : rows.slice(0, Math.max(1, tooMuch));
};

const notAssigned = (name: string): AegisError =>
  new AegisError('artifacts.not_assigned', `'${name}' in this version is not assigned to this node.`);
