import { isUuid } from '@aegis/protocol/ids';
import type { NodeStatus } from '@aegis/protocol/nodes/node';
import { type Selectable, type SelectQueryBuilder, sql, type Updateable } from 'kysely';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import { compiledOnce } from '../platform/storage/compiled.ts';
import { forUpdate } from '../platform/storage/for-update.ts';
import { rowsByKey } from '../platform/storage/row-statements.ts';
import { together } from '../platform/storage/statements.ts';
import type { Tell, Told } from '../platform/told.ts';
import type { Storage, Tables, Tx } from '../tables.ts';
import type { NodesTables } from './tables.ts';

export type NodeRow = Selectable<NodesTables['nodes']>;

export interface NodeFilter {
  within?: Within | undefined;
  site?: string | undefined;
  os?: string | undefined;
  container_engine?: string | undefined;
  capability?: string | undefined;
  label?: { key: string; value?: string | undefined } | undefined;
  /** A status, and the last_seen at which online ends and at which offline begins. */
  status?: { is: NodeStatus; onlineSince: number; degradedSince: number } | undefined;
}

/** What a selector looks at, for every node at once. */
const TARGET_COLUMNS = [
  'uid',
  'name',
  'state',
  'maintenance',
  'keyless',
  'key_id',
  'site',
  'labels',
  'capabilities',
  'os',
  'container_engine',
  'last_seen',
  'deactivated_at',
  'said_status',
] as const;
export type TargetRow = Pick<NodeRow, (typeof TARGET_COLUMNS)[number]>;

const NAMES_AT_ONCE = 500; // below SQLite's and PostgreSQL's bounds on parameters
const UPDATES_AT_ONCE = 500;

/** The SQL of the registry of nodes. Retired nodes are found by uid alone. */
/** @param tell what listeners learn of nodes, in the transaction that makes it so */
export const nodesRepository = (storage: Storage, tell: Tell) => {
  const live = () => storage.read.selectFrom('nodes').where('state', '<>', 'retired');
  const contains = (column: 'labels' | 'capabilities', text: string) =>
    storage.kind === 'sqlite'
      ? sql<boolean>`instr(${sql.ref(column)}, ${text}) > 0`
      : sql<boolean>`strpos(${sql.ref(column)}, ${text}) > 0`;

  const filtered = <O>(query: SelectQueryBuilder<Tables, 'nodes', O>, filter: NodeFilter) => {
    let rows = query;
    if (filter.within) rows = rows.where(filter.within.row);
    if (filter.site !== undefined) rows = rows.where('site', '=', filter.site);
    if (filter.os !== undefined) rows = rows.where('os', '=', filter.os);
    if (filter.container_engine !== undefined) rows = rows.where('container_engine', '=', filter.container_engine);
    // Neither keys, values nor capabilities may hold quotes or backslashes, so a piece of JSON is found by its text.
    if (filter.capability !== undefined) rows = rows.where(contains('capabilities', JSON.stringify(filter.capability)));
    if (filter.label) {
      const { key, value } = filter.label;
      const text = value === undefined ? `${JSON.stringify(key)}:` : `${JSON.stringify(key)}:${JSON.stringify(value)}`;
      rows = rows.where(contains('labels', text));
    }
    return filter.status ? withStatus(rows, filter.status) : rows;
  };

  const withUid = compiledOnce((of: { uid: string }) =>
    storage.read.selectFrom('nodes').selectAll().where('uid', '=', of.uid),
  );
  const allTargets = compiledOnce((_: Record<string, never>) => live().select(TARGET_COLUMNS).orderBy('name'));
  const targetsBy = (key: 'name' | 'uid') =>
    rowsByKey(storage.kind, { table: 'nodes', columns: TARGET_COLUMNS, key, also: "state <> 'retired'" });
  const targetsByName = targetsBy('name');
  const targetsByUid = targetsBy('uid');

  return {
    byUid: async (uid: string): Promise<NodeRow | undefined> => (await withUid(storage.read, { uid }))[0],
    byName: (name: string): Promise<NodeRow | undefined> =>
      live().selectAll().where('name', '=', name).executeTakeFirst(),
    byUidIn: (tx: Tx, uid: string): Promise<NodeRow | undefined> =>
      forUpdate(storage, tx.selectFrom('nodes').selectAll().where('uid', '=', uid)).executeTakeFirst(),
    byKeyIn: (tx: Tx, keyId: string): Promise<NodeRow | undefined> =>
      forUpdate(storage, tx.selectFrom('nodes').selectAll().where('key_id', '=', keyId)).executeTakeFirst(),
    byNameIn: (tx: Tx, name: string): Promise<NodeRow | undefined> =>
      forUpdate(
        storage,
        tx.selectFrom('nodes').selectAll().where('name', '=', name).where('state', '<>', 'retired'),
      ).executeTakeFirst(),

    page: (filter: NodeFilter, limit: number, after?: readonly [string, string]): Promise<NodeRow[]> => {
      const rows = filtered(live(), filter).orderBy('name').orderBy('uid').limit(limit).selectAll();
      return (
        after ? rows.where((where) => where(where.refTuple('name', 'uid'), '>', where.tuple(after[0], after[1]))) : rows
      ).execute();
    },
    count: async (filter: NodeFilter): Promise<number> => {
      const { total } = await filtered(live(), filter)
        .select((where) => where.fn.countAll<number>().as('total'))
        .executeTakeFirstOrThrow();
      return total;
    },
    /** Those of the nodes that are within, retired ones too. */
    uidsWithin: async (uids: readonly string[], within: NodeScope): Promise<Set<string>> => {
      const found = new Set<string>();
      for (let at = 0; at < uids.length; at += NAMES_AT_ONCE)
        for (const { uid } of await storage.read
          .selectFrom('nodes')
          .select('uid')
          .where('uid', 'in', uids.slice(at, at + NAMES_AT_ONCE))
          .where(within.row)
          .execute())
          found.add(uid);
      return found;
    },
    /** Names and uids of all that are within, retired ones too. */
    namesWithin: async (within: NodeScope): Promise<Set<string>> =>
      new Set(
        (await storage.read.selectFrom('nodes').select(['uid', 'name']).where(within.row).execute()).flatMap(
          ({ uid, name }) => [uid, name],
        ),
      ),
    targets: (): Promise<TargetRow[]> => allTargets(storage.read, {}),
    /** Those that have one of the names or uids. */
    targetsNamed: async (names: readonly string[]): Promise<TargetRow[]> => {
      if (names.length === 0) return [];
      const found = await together(storage.read, [targetsByName(names), targetsByUid(names.filter(isUuid))]);
      return found.flat() as TargetRow[];
    },

    /** Those of the uids that are not retired, as the transaction sees them. */
    activeIn: async (tx: Tx, uids: readonly string[]): Promise<TargetRow[]> => {
      const [found = []] = await together(tx, [targetsByUid(uids)]);
      return found as TargetRow[];
    },

    lastSeen: async (uids: readonly string[]): Promise<{ uid: string; last_seen: number | null }[]> => {
      const found: { uid: string; last_seen: number | null }[] = [];
      for (let at = 0; at < uids.length; at += NAMES_AT_ONCE)
        found.push(
          ...(await storage.read
            .selectFrom('nodes')
            .select(['uid', 'last_seen'])
            .where('uid', 'in', uids.slice(at, at + NAMES_AT_ONCE))
            .execute()),
        );
      return found;
    },

    /** False when the name is taken by a node that is not retired (or the key by any). */
    insert: async (tx: Tx, row: NodeRow): Promise<boolean> => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('nodes')
        .values(row)
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      if (numInsertedOrUpdatedRows !== 1n) return false;
      await tell(tx, [{ type: 'node.enrolled', node: row, data: { keyless: row.keyless === 1 } }]);
      return true;
    },
    tell: (tx: Tx, { uid, name }: NodeRow, type: string, data: Told['data'] = {}): Promise<void> =>
      tell(tx, [{ type, node: { uid, name }, data }]),
    update: async (tx: Tx, uid: string, change: Updateable<NodesTables['nodes']>): Promise<void> => {
      await tx.updateTable('nodes').set(change).where('uid', '=', uid).execute();
    },
    /** Stores signs of life, many per statement; an older one never replaces a newer. */
    storeSeen: (seen: ReadonlyMap<string, number>): Promise<void> =>
      storage.write('nodes.seen', async (tx) => {
        const all = [...seen].sort(([a], [b]) => (a < b ? -1 : 1)); // one order of locking for all server processes
        for (let at = 0; at < all.length; at += UPDATES_AT_ONCE) {
          const rows = all
            .slice(at, at + UPDATES_AT_ONCE)
            .map(([uid, ms]) => sql`(cast(${uid} as text), cast(${ms} as bigint))`);
          await sql`with seen(uid, at) as (values ${sql.join(rows)})
            update nodes set last_seen = seen.at from seen
            where nodes.uid = seen.uid and (nodes.last_seen is null or nodes.last_seen < seen.at)`.execute(tx);
        }
      }),
    addApiKey: async (tx: Tx, row: NodesTables['nodes_api_keys']): Promise<void> => {
      await tx.insertInto('nodes_api_keys').values(row).execute();
    },
    byApiKey: (keySha256: string): Promise<(NodeRow & { key_sha256: string }) | undefined> =>
      storage.read
        .selectFrom('nodes_api_keys')
        .innerJoin('nodes', 'nodes.uid', 'nodes_api_keys.node_uid')
        .selectAll('nodes')
        .select('nodes_api_keys.key_sha256')
        .where('nodes_api_keys.key_sha256', '=', keySha256)
        .executeTakeFirst(),
    write: storage.write,
  };
};
export type NodesRepository = ReturnType<typeof nodesRepository>;

const withStatus = <O>(
  rows: SelectQueryBuilder<Tables, 'nodes', O>,
  { is, onlineSince, degradedSince }: NonNullable<NodeFilter['status']>,
): SelectQueryBuilder<Tables, 'nodes', O> => {
  if (is === 'maintenance') return rows.where('maintenance', '=', 1);
  const present = rows.where('maintenance', '=', 0);
  const active = present.where('deactivated_at', 'is', null);
  switch (is) {
    case 'online':
      return active.where('said_status', 'is', null).where('last_seen', '>=', onlineSince);
    case 'degraded':
      return active
        .where('said_status', 'is', null)
        .where('last_seen', '<', onlineSince)
        .where('last_seen', '>=', degradedSince);
    case 'offline':
      return present.where((where) =>
        where.or([
          where('deactivated_at', 'is not', null),
          where('said_status', '=', 'offline'),
          where('last_seen', 'is', null),
          where('last_seen', '<', degradedSince),
        ]),
      );
    case 'error':
      return active.where('said_status', '=', 'error').where('last_seen', '>=', degradedSince);
  }
};
