import { AegisError } from '@aegis/protocol/errors';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { ArtifactsRepository } from './repository.ts';
import type { AssignmentRow, DesiredRow } from './tables.ts';

/** Changes of desired state, in the caller's transaction: every change of an assignment goes through here, so that a generation
 *  counts each of them, and a node's revision, counts and limits follow from the rows. */

export interface Host {
  uid: string;
  name: string;
}
/** What is wished of a node: an artifact with settings (JSON), its absence, or the same as before under a new generation. */
export type Wish =
  | { kind: 'present'; artifactId: string; manifestBytes: number; constants: string }
  | { kind: 'absent' }
  | { kind: 'anew' };

export interface Change {
  before: AssignmentRow | undefined;
  after: AssignmentRow;
  changed: boolean;
  /** The node's, after it. */
  revision: number;
}
export interface Request {
  name: string;
  /** Each once. */
  hosts: readonly Host[];
  by: string;
  now: number;
  /** Null leaves the node as it is. */
  wishFor: (before: AssignmentRow | undefined, host: Host) => Wish | null;
}

const HOSTS_AT_ONCE = 1000;
/** Of the manifests assigned to one node and what is set in them: their directives have to fit into one answer that a daemon reads (16 MiB). */
export const MAX_MANIFEST_BYTES = 6 * 1024 * 1024;

export const desiredChanges = (on: {
  assignments: AssignmentsRepository;
  artifacts: ArtifactsRepository;
  newId: () => string;
  maxPerNode: number;
}) => {
  const nextRow = (request: Request, host: Host, before: AssignmentRow | undefined): AssignmentRow | null => {
    const wish = request.wishFor(before, host);
    if (!wish || isSame(before, wish)) return null;
    if (wish.kind !== 'present' && !before) return null;
    const what =
      wish.kind === 'present'
        ? { present: 1, artifact_id: wish.artifactId, constants: wish.constants }
        : {
            present: wish.kind === 'absent' ? 0 : (before?.present ?? 0),
            artifact_id: before?.artifact_id ?? '',
            constants: wish.kind === 'absent' ? '{}' : (before?.constants ?? '{}'),
          };
    return {
      node_uid: host.uid,
      name: request.name,
      node_name: host.name,
      generation: (before?.generation ?? 0) + 1,
      ...what,
      assigned_at: wish.kind === 'anew' ? (before?.assigned_at ?? request.now) : request.now,
      assigned_by: wish.kind === 'anew' ? (before?.assigned_by ?? request.by) : request.by,
      directive_id: on.newId(),
      issued_at: request.now,
      confirmed: 0,
    };
  };

  const changeSome = async (tx: Tx, request: Request, hosts: readonly Host[]): Promise<Change[]> => {
    const { desired, assignments } = await on.assignments.lock(
      tx,
      request.name,
      hosts.map(({ uid }) => uid),
    );
    const planned = hosts.map((host) => {
      const before = assignments.get(host.uid);
      return { host, before, after: nextRow(request, host, before) };
    });
    const ids = new Set(
      planned.flatMap(({ before, after }) =>
        after ? [after.artifact_id, before?.artifact_id ?? after.artifact_id] : [],
      ),
    );
    const bytes = await on.artifacts.manifestBytesIn(tx, [...ids]);
    const bytesOf = (row: AssignmentRow | undefined): number =>
      row?.present === 1 ? (bytes.get(row.artifact_id) ?? 0) + Buffer.byteLength(row.constants) : 0;
    const rows: AssignmentRow[] = [];
    const counts: DesiredRow[] = [];
    const changes = planned.flatMap(({ host, before, after }): Change[] => {
      const was = desired.get(host.uid) ?? { node_uid: host.uid, revision: 0, present: 0, bytes: 0, trust_version: 0 };
      if (!after) return before ? [{ before, after: before, changed: false, revision: was.revision }] : [];
      const is: DesiredRow = {
        ...was,
        revision: was.revision + 1,
        present: was.present + after.present - (before?.present ?? 0),
        bytes: was.bytes + bytesOf(after) - bytesOf(before),
      };
      refuseTooMuch(host, is, was, on.maxPerNode);
      rows.push(after);
      counts.push(is);
      return [{ before, after, changed: true, revision: is.revision }];
    });
    await on.assignments.save(tx, rows, counts);
    return changes;
  };

  /** Answers every host that has a row now, in the order of the uids. @throws AegisError artifacts.limit */
  return async (tx: Tx, request: Request): Promise<Change[]> => {
    const hosts = request.hosts.toSorted((a, b) => (a.uid < b.uid ? -1 : 1));
    const changes: Change[] = [];
    for (let at = 0; at < hosts.length; at += HOSTS_AT_ONCE) {
      // SQLite works in this thread: others are answered between two sets, from what was committed before.
      if (at > 0) await new Promise((resolve) => setImmediate(resolve));
      changes.push(...(await changeSome(tx, request, hosts.slice(at, at + HOSTS_AT_ONCE))));
    }
    return changes;
  };
};
export type DesiredChanges = ReturnType<typeof desiredChanges>;

export const isSame = (before: AssignmentRow | undefined, wish: Wish): boolean => {
  if (!before || wish.kind === 'anew') return false;
  if (wish.kind === 'absent') return before.present === 0;
  return before.present === 1 && before.artifact_id === wish.artifactId && before.constants === wish.constants;
};

const refuseTooMuch = (host: Host, is: DesiredRow, was: DesiredRow, maxPerNode: number): void => {
  if (is.present > maxPerNode && is.present > was.present)
    throw new AegisError(
      'artifacts.limit',
      `'${host.name}' has ${was.present} artifacts already, as many as one node may (artifacts.max_assignments_per_node). Unassign one, or raise that setting.`,
      { details: { host: host.name } },
    );
  if (is.bytes > MAX_MANIFEST_BYTES && is.bytes > was.bytes)
    throw new AegisError(
      'artifacts.limit',
      `The manifests of all that '${host.name}' is to run, with what is set in them, would be larger than ${MAX_MANIFEST_BYTES / 1024 / 1024} MiB together. Unassign one, or put less into their initial maps.`,
      { details: { host: host.name } },
    );
};
