import type { BackupSpec } from '@aegis/protocol/backups/config';
import type { BackupConfig } from '@aegis/protocol/backups/endpoints';
import { looksLikeSelector } from '@aegis/protocol/commands/selector';
import { isoTime } from '../platform/clock.ts';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { DestinationsRepository, Place } from './destinations-repository.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { ConfigRow, RunRow } from './tables.ts';

/** Configurations as the API shows them. */

export const specOf = ({ spec }: Pick<ConfigRow, 'spec'>): BackupSpec => JSON.parse(spec) as BackupSpec; // as validated when it was stored

export const configView = (
  row: ConfigRow,
  more: { place: Place | undefined; assigned: number; last: RunRow | undefined },
): BackupConfig => ({
  config_id: row.id,
  ...specOf(row),
  credentials:
    more.place === undefined || more.place.accessKeyId === null ? null : { access_key_id: more.place.accessKeyId },
  revision: row.revision,
  created_at: isoTime(row.created_at),
  created_by: row.created_by,
  updated_at: isoTime(row.updated_at),
  updated_by: row.updated_by,
  assigned: more.assigned,
  last_run: more.last
    ? {
        run_id: more.last.id,
        node: more.last.node_name,
        state: more.last.state,
        started_at: isoTime(more.last.started_at),
      }
    : null,
  probe: more.place?.probe ?? null,
});

/** With what belongs to each: a page costs as many statements as one. */
export const configViews =
  (on: {
    destinations: DestinationsRepository;
    assignments: AssignmentsRepository;
    runs: RunsRepository;
    nodes: { namesWithin(within: NodeScope): Promise<ReadonlySet<string>> };
  }) =>
  async (rows: readonly ConfigRow[], within: Within): Promise<BackupConfig[]> => {
    const ids = rows.map(({ id }) => id);
    const [places, counts, last] = await Promise.all([
      on.destinations.byIds(rows.map(({ destination_id }) => destination_id)),
      on.assignments.countsOf(ids, within),
      on.runs.newestOfConfigs(ids, within),
    ]);
    const names = within === null ? null : await on.nodes.namesWithin(within);
    return rows.map((row) =>
      configView(names ? onlyNamed(row, names) : row, {
        place: places.get(row.destination_id),
        assigned: counts.get(row.id) ?? 0,
        last: last.get(row.id),
      }),
    );
  };
/** With the nodes within that it names; its selectors say of others too. */
const onlyNamed = (row: ConfigRow, names: ReadonlySet<string>): ConfigRow => {
  const spec = specOf(row);
  const nodes = spec.nodes.filter((text) => !looksLikeSelector(text) && names.has(text));
  return { ...row, spec: JSON.stringify({ ...spec, nodes }) };
};
export type ConfigViews = ReturnType<typeof configViews>;
