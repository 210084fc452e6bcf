import type { AttachmentReport, DriftReport, MapReport, StatusReport } from '@aegis/protocol/artifacts/status';
import { isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { StoredDeployment } from './deployments.ts';
import { artifactsRepository } from './repository.ts';

/** One artifact as `aegis daemon attachments` shows it: what is wished, what runs, and what was last seen of it. */
export interface ArtifactView {
  name: string;
  /** The newest generation that this node took. */
  generation: number;
  /** Wished; null once it is unassigned. */
  version: string | null;
  /** That was attached well last; null when none was. */
  running: { version: string; generation: number; since: string } | null;
  /** `pending` until it was looked at. */
  state: StatusReport['state'];
  at: string | null;
  attachments: AttachmentReport[];
  maps: MapReport[];
  drift: DriftReport[];
  reason: StatusReport['reason'] | null;
}

/** From the journal alone: the daemon's own connection, or a reader's when the daemon is away. */
export const artifactViews = (journal: Pick<Journal, 'db'>): ArtifactView[] => {
  const repository = artifactsRepository(journal);
  const applied = new Map(repository.applied().map((row) => [row.name, row]));
  const reports = new Map(
    repository
      .reports()
      .filter(({ slot }) => slot === 'state')
      .map(({ name, report }) => [name, report]),
  );
  return repository
    .desired()
    .filter((row) => row.present || !row.done || applied.has(row.name))
    .map(({ name, generation, present, body }) => {
      const report = reports.get(name);
      const runs = applied.get(name);
      const { body: running } = runs ? (JSON.parse(runs.deployment) as StoredDeployment) : { body: null };
      return {
        name,
        generation,
        version: present ? String((JSON.parse(body) as { version?: unknown }).version ?? '') : null,
        running:
          runs && running
            ? { version: running.version, generation: runs.generation, since: isoTime(runs.appliedAtMs) }
            : null,
        state: report && report.generation === generation ? report.state : 'pending',
        at: report?.at ?? null,
        attachments: report?.attachments ?? [],
        maps: report?.maps ?? [],
        drift: report?.drift ?? [],
        reason: report?.reason ?? null,
      };
    });
};
