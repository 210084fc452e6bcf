import { AegisError } from '@aegis/protocol/errors';
import type { Executor } from '../platform/storage/statements.ts';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository, Load } from './assignments-repository.ts';
import { MAX_BYTES_PER_NODE } from './config-checks.ts';
import type { DesiredDoor, NodeDoor } from './node-door.ts';
import type { AssignmentRow } from './tables.ts';

/** Changes of desired state, in the caller's transaction: every change of an assignment goes through here, so that a generation counts
 *  each of them, and the node's revision with it. The caller holds the configuration's row. */

const NODES_AT_ONCE = 1000;
const NOTHING: Load = { count: 0, bytes: 0 };

export interface Host {
  uid: string;
  name: string;
}
export interface Wish {
  configId: string;
  /** What nodes are told changed: those that stay get a new generation. */
  anew: boolean;
  /** Of the body. */
  bytes: number;
  /** All nodes that are to have it. */
  hosts: readonly Host[];
  /** Other nodes stay as they are. Absent: they lose it. */
  only?: ReadonlySet<string>;
  by: string;
  now: number;
}
export interface Outcome {
  added: string[];
  removed: string[];
  unchanged: number;
  /** Those that were left out because they carry as much as one node may. */
  full: string[];
  revisions: [uid: string, revision: number][];
}
interface Change {
  before: AssignmentRow | undefined;
  after: AssignmentRow;
}

/** A node of the wish was retired meanwhile: resolve it once more. */
export class HostsGone extends Error {}

export const assignmentChanges = (on: {
  assignments: AssignmentsRepository;
  desired: DesiredDoor;
  nodes: NodeDoor;
  newId: () => string;
  maxPerNode: number;
}) => {
  const { assignments } = on;

  const rowOf = (wish: Wish, host: Host, before: AssignmentRow | undefined, present: boolean): AssignmentRow => ({
    node_uid: host.uid,
    config_id: wish.configId,
    node_name: host.name,
    generation: (before?.generation ?? 0) + 1,
    present: present ? 1 : 0,
    bytes: present ? wish.bytes : 0,
    assigned_at: before?.present === 1 && present ? before.assigned_at : wish.now,
    assigned_by: before?.present === 1 && present ? before.assigned_by : wish.by,
    directive_id: on.newId(),
    issued_at: wish.now,
    confirmed: 0,
  });
  /** In the order of the uids. */
  const planned = (wish: Wish, rows: ReadonlyMap<string, AssignmentRow>): { changes: Change[]; unchanged: number } => {
    const wanted = new Map(wish.hosts.map((host) => [host.uid, host]));
    const changes: Change[] = [];
    let unchanged = 0;
    for (const host of wanted.values()) {
      const before = rows.get(host.uid);
      if (before?.present === 1 && !wish.anew) unchanged++;
      else changes.push({ before, after: rowOf(wish, host, before, true) });
    }
    for (const before of rows.values())
      if (before.present === 1 && !wanted.has(before.node_uid) && (wish.only?.has(before.node_uid) ?? true))
        changes.push({
          before,
          after: rowOf(wish, { uid: before.node_uid, name: before.node_name }, before, false),
        });
    changes.sort((a, b) => (a.after.node_uid < b.after.node_uid ? -1 : 1));
    return { changes, unchanged };
  };
  const outcomeOf = (changes: readonly Change[], unchanged: number): Omit<Outcome, 'full' | 'revisions'> => {
    const names = (which: (change: Change) => boolean) =>
      changes
        .filter(which)
        .map(({ after }) => after.node_name)
        .sort();
    return {
      added: names(({ before, after }) => after.present === 1 && before?.present !== 1),
      removed: names(({ after }) => after.present === 0),
      unchanged: unchanged + changes.filter(({ before, after }) => after.present === 1 && before?.present === 1).length,
    };
  };
  const isTooMuch = ({ before, after }: Change, { count, bytes }: Load): boolean => {
    const more = { count: after.present - (before?.present ?? 0), bytes: after.bytes - (before?.bytes ?? 0) };
    return (
      (more.count > 0 && count + more.count > on.maxPerNode) ||
      (more.bytes > 0 && bytes + more.bytes > MAX_BYTES_PER_NODE)
    );
  };

  /** Before anything is locked or counted: a node that is full is not woken again and again for what it does not get. */
  const thoseThatFit = async (tx: Tx, changes: readonly Change[]): Promise<Change[]> => {
    const loads = await assignments.loads(
      tx,
      changes.map(({ after }) => after.node_uid),
    );
    return changes.filter((change) => !isTooMuch(change, loads.get(change.after.node_uid) ?? NOTHING));
  };
  const changeSome = async (
    tx: Tx,
    wanted: readonly Change[],
    overfull: 'refuse' | 'leave out',
  ): Promise<{ made: Change[]; full: string[]; revisions: [string, number][] }> => {
    const changes = overfull === 'refuse' ? wanted : await thoseThatFit(tx, wanted);
    const uids = changes.map(({ after }) => after.node_uid);
    const revisions = await on.desired.bump(tx, uids); // first: it locks, and what follows is so until the commit
    const loads = await assignments.loads(tx, uids);
    const full = changes.filter((change) => isTooMuch(change, loads.get(change.after.node_uid) ?? NOTHING));
    if (full[0] && overfull === 'refuse') throw tooMuch(full[0].after.node_name, on.maxPerNode);
    const tooFull = new Set(full);
    const made = full.length === 0 ? [...changes] : changes.filter((change) => !tooFull.has(change));
    await assignments.save(
      tx,
      made.map(({ after }) => after),
    );
    const gaining = made.filter(({ after }) => after.present === 1).map(({ after }) => after.node_uid);
    const active = await on.nodes.activeIn(tx, gaining);
    if (gaining.some((uid) => !active.has(uid))) throw new HostsGone('a node was retired meanwhile');
    const kept = new Set(made);
    const left = new Set(wanted.filter((change) => !kept.has(change)).map(({ after }) => after.node_name));
    return { made, full: [...left], revisions };
  };

  return {
    /** @throws AegisError backups.limit; HostsGone */
    apply: async (tx: Tx, wish: Wish, overfull: 'refuse' | 'leave out'): Promise<Outcome> => {
      const { changes, unchanged } = planned(wish, await assignments.ofConfig(tx, wish.configId));
      const made: Change[] = [];
      const full: string[] = [];
      const revisions: [string, number][] = [];
      for (let at = 0; at < changes.length; at += NODES_AT_ONCE) {
        // SQLite works in this thread: others are answered between two sets, from what was committed before.
        if (at > 0) await new Promise((resolve) => setImmediate(resolve));
        const some = await changeSome(tx, changes.slice(at, at + NODES_AT_ONCE), overfull);
        made.push(...some.made);
        full.push(...some.full);
        revisions.push(...some.revisions);
      }
      return { ...outcomeOf(made, unchanged), full, revisions };
    },
    /** What `apply` would do, without the limits of the nodes. */
    preview: async (db: Executor, wish: Wish): Promise<Omit<Outcome, 'full' | 'revisions'>> => {
      const { changes, unchanged } = planned(wish, await assignments.ofConfig(db, wish.configId));
      return outcomeOf(changes, unchanged);
    },
    /** The same wish for one node under a generation that it takes: it holds a newer one than we know of, as after the restore of an
     *  older backup of the database. */
    again: async (tx: Tx, row: AssignmentRow, generation: number, now: number): Promise<[string, number][]> => {
      const revisions = await on.desired.bump(tx, [row.node_uid]);
      await assignments.save(tx, [{ ...row, generation, directive_id: on.newId(), issued_at: now, confirmed: 0 }]);
      return revisions;
    },
  };
};
export type AssignmentChanges = ReturnType<typeof assignmentChanges>;

const tooMuch = (node: string, maxPerNode: number): AegisError =>
  new AegisError(
    'backups.limit',
    `'${node}' has as many backup configurations as one node may (${maxPerNode}, backups.max_configs_per_node; ${MAX_BYTES_PER_NODE / 1024 / 1024} MiB together). Take one off it, or raise that setting.`,
    { details: { node } },
  );
