/** nodes: the registry of managed machines. Owns who is enrolled, their names, labels, keys and presence. Called by its routes,
 *  by authentication (is this node active?) and, through parameters, by commands (targets, signs of life).
 *  Invariant: a uid is never reused, a name belongs to one node that is not retired, a key to one node for ever.
 *  It must not know what commands are: what happens to them at a retirement comes in as a hook. */
import { looksLikeSelector, matchSelector, parseSelector, type Selectable } from '@aegis/protocol/commands/selector';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { NodeList, NodePatch, NodeQuery } from '@aegis/protocol/nodes/endpoints';
import { type Labels, type Node, NodeState, type NodeStatus } from '@aegis/protocol/nodes/node';
import * as z from 'zod/mini';
import { type Clock, isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Within } from '../platform/node-scope.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Tx } from '../tables.ts';
import type { Presence } from './presence.ts';
import type { NodeFilter, NodeRow, NodesRepository, TargetRow } from './repository.ts';

/** A node as commands see it. */
export interface TargetNode {
  uid: string;
  name: string;
  status: NodeStatus;
  /** Null for a keyless poller. */
  keyId: string | null;
  keyless: boolean;
  /** The target's text that matched it first. */
  matchedBy: string;
}

/** A node as a selector sees it. */
export interface Candidate extends Selectable {
  uid: string;
  /** Null for a keyless poller. */
  keyId: string | null;
}

/** What others need of a node at each request; kept for a moment, see `KEPT`. */
export interface KnownNode {
  uid: string;
  name: string;
  state: NodeState;
  keyId: string | null;
  /** 32 raw bytes. */
  publicKey: Buffer | null;
  keyless: boolean;
  deactivated: boolean;
}

/** What else happens when a node is retired: its part in the same transaction, and what follows once that is durable. */
export interface RetireHook {
  inTransaction(tx: Tx, uid: string): Promise<void>;
  afterwards(): void;
}

const KEPT_NODES = 20_000;
/** Each is asked about each node before anybody else is answered. */
const MAX_SELECTORS = 20;
const Cursor = z.tuple([z.string(), z.string()]);

export const nodesService = (parts: {
  repository: NodesRepository;
  presence: Presence;
  clock: Clock;
  /** How long a node may be taken from memory. Only another server process can make it stale: Infinity where there is none. */
  keepMs: number;
  /** Tells the other server processes that the node is another than it was. */
  tellChanged: (uid: string) => void;
  /** Of nodes that other server processes changed; null: any may be. */
  onChangedElsewhere: (listener: (uid: string | null) => void) => void;
}) => {
  const { repository, presence, clock } = parts;
  const hooks: RetireHook[] = [];
  const listeners: ((uid: string) => void)[] = [];
  const kept = new Map<string, { node: KnownNode; at: number }>();
  /** What was read before one of them is not kept. */
  let changesElsewhere = 0;
  parts.onChangedElsewhere((uid) => {
    changesElsewhere++;
    if (uid === null) kept.clear();
    else kept.delete(uid);
  });

  const byUid = async (uid: string): Promise<KnownNode | null> => {
    const known = kept.get(uid);
    if (known && clock.now() - known.at <= parts.keepMs) return known.node;
    const before = changesElsewhere;
    const row = await repository.byUid(uid);
    if (!row) return null;
    const node = knownOf(row);
    if (changesElsewhere !== before) return node;
    if (kept.size >= KEPT_NODES) kept.delete(kept.keys().next().value ?? '');
    kept.set(uid, { node, at: clock.now() });
    return node;
  };
  const changed = (uid: string): void => {
    kept.delete(uid);
    parts.tellChanged(uid);
    for (const listener of listeners) listener(uid);
  };
  const find = async (id: string, within: Within): Promise<NodeRow> => {
    const row = (isUuid(id) ? await repository.byUid(id) : undefined) ?? (await repository.byName(id));
    if (!row || !isWithin(within, row)) throw unknownNode(id);
    return row;
  };
  const change = async (
    label: string,
    id: string,
    within: Within,
    work: (tx: Tx, row: NodeRow) => Promise<void>,
  ): Promise<Node> => {
    const { uid } = await find(id, within);
    const after = await repository.write(label, async (tx) => {
      const row = await repository.byUidIn(tx, uid);
      if (row && !isWithin(within, row)) throw unknownNode(id); // it left meanwhile
      if (row) await work(tx, row);
      return repository.byUidIn(tx, uid);
    });
    changed(uid);
    if (!after) throw unknownNode(id);
    return shown(after);
  };
  const shown = (row: NodeRow): Node => {
    const state = z.parse(NodeState, row.state);
    const maintenance = row.maintenance === 1;
    return {
      uid: row.uid,
      agent_id: row.name,
      name: row.name,
      state,
      status: presence.statusOf({
        uid: row.uid,
        state,
        maintenance,
        deactivated: row.deactivated_at !== null,
        said: row.said_status,
        lastSeen: row.last_seen,
      }),
      maintenance,
      deactivated: row.deactivated_at !== null,
      keyless: row.keyless === 1,
      key_id: row.key_id,
      public_key: row.public_key?.toString('base64') ?? null,
      sealing_key: row.sealing_key?.toString('base64') ?? null,
      site: row.site,
      labels: JSON.parse(row.labels) as Labels,
      attrs: JSON.parse(row.attrs) as Node['attrs'],
      capabilities: JSON.parse(row.capabilities) as string[],
      version: row.version,
      os: row.os,
      kernel: row.kernel,
      container_engine: row.container_engine,
      last_seen: isoTimeOrNull(presence.lastSeen(row.uid, row.last_seen)),
      created_at: isoTime(row.created_at),
      updated_at: isoTime(row.updated_at),
    };
  };
  const storeSeen = async (): Promise<void> => {
    const seen = presence.take();
    if (seen.size === 0) return;
    try {
      await repository.storeSeen(seen);
    } catch (error) {
      presence.giveBack(seen);
      throw error;
    }
  };
  const targetOf = (row: TargetRow, matchedBy: string): TargetNode => ({
    uid: row.uid,
    name: row.name,
    status: statusOfRow(presence, row),
    keyId: row.key_id,
    keyless: row.keyless === 1,
    matchedBy,
  });

  return {
    byUid,
    seen: presence.seen,
    attend: presence.attend,
    storeSeen,
    /** In the order of the uids. A key is for life, so what is known of it is never out of date. */
    keyIdsOf: (uids: readonly string[]): Promise<(string | null)[]> =>
      Promise.all(uids.map(async (uid) => (kept.get(uid)?.node ?? (await byUid(uid)))?.keyId ?? null)),
    /** Those of the nodes that are not retired. */
    activeOf: async (uids: readonly string[]): Promise<string[]> =>
      (await repository.targetsNamed(uids)).map(({ uid }) => uid).filter((uid) => uids.includes(uid)),
    /** Those of the nodes that are there: heard of lately, in maintenance or not. */
    onlineOf: async (uids: readonly string[]): Promise<Set<string>> => {
      const rows = await repository.targetsNamed(uids);
      return new Set(
        rows.flatMap((row) =>
          ['online', 'degraded'].includes(statusOfRow(presence, { ...row, maintenance: 0 })) ? [row.uid] : [],
        ),
      );
    },
    /** Milliseconds of the last sign of life, by uid; nodes that never gave one are left out. */
    lastSeen: async (uids: readonly string[]): Promise<Map<string, number>> => {
      const seen = new Map<string, number>();
      for (const { uid, last_seen } of await repository.lastSeen(uids)) {
        const last = presence.lastSeen(uid, last_seen);
        if (last !== null) seen.set(uid, last);
      }
      return seen;
    },
    /** Forgets what is kept of a node, after another part of the domain has changed it. */
    changed,
    /** Told of each node that is new or whose facts changed, once that is durable. Must not throw. */
    onChange: (listener: (uid: string) => void): void => {
      listeners.push(listener);
    },
    /** Every node as a selector sees it. */
    candidates: async (): Promise<Candidate[]> => (await repository.targets()).map((row) => candidateOf(presence, row)),
    /** Every node that is not retired, by the name that people know. */
    named: async (): Promise<{ uid: string; name: string }[]> =>
      (await repository.targets()).map(({ uid, name }) => ({ uid, name })),
    candidate: async (uid: string): Promise<Candidate | null> => {
      const row = (await repository.targetsNamed([uid])).find((one) => one.uid === uid);
      return row ? candidateOf(presence, row) : null;
    },
    /** Raw public keys, of a retired node too. */
    keysOf: async (uid: string): Promise<{ publicKey: Buffer | null; sealingKey: Buffer | null } | null> => {
      const row = await repository.byUid(uid);
      return row ? { publicKey: row.public_key, sealingKey: row.sealing_key } : null;
    },
    onRetire: (hook: RetireHook): void => {
      hooks.push(hook);
    },

    /** For authentication: the node behind a good token, seen just now.
     *  @throws AegisError nodes.retired, access.unauthenticated for a uid that nobody has */
    actorOf: async (uid: string): Promise<NodeActor> => {
      const node = await byUid(uid);
      if (!node) throw new AegisError('access.unauthenticated', 'This node is not known here. Enrol it.');
      const actor = actorOfKnown(node);
      presence.seen(uid);
      return actor;
    },

    /** A node by uid or name, for who wants to connect as it; `refused` says why it may not, for who has shown its key. No sign of life:
     *  anybody can ask. */
    forChannel: async (
      id: string,
    ): Promise<{ uid: string; name: string; publicKey: Buffer | null; refused: AegisError | null } | null> => {
      const uid = isUuid(id) ? id : (await repository.byName(id))?.uid;
      const node = uid === undefined ? null : await byUid(uid);
      if (!node) return null;
      const known = { uid: node.uid, name: node.name, publicKey: node.publicKey };
      try {
        actorOfKnown(node);
        return { ...known, refused: null };
      } catch (error) {
        if (error instanceof AegisError) return { ...known, refused: error };
        throw error;
      }
    },

    list: async (query: NodeQuery, within: Within): Promise<z.infer<typeof NodeList>> => {
      const filter = { ...filterOf(query, presence, clock.now()), within };
      if (filter.status) await storeSeen(); // the database filters by what it holds
      const rows = await repository.page(
        filter,
        query.limit,
        query.cursor === undefined ? undefined : decodeCursor(query.cursor, Cursor),
      );
      const last = rows.length === query.limit ? rows.at(-1) : undefined;
      return {
        agents: rows.map(shown),
        total: await repository.count(filter),
        next_cursor: last ? encodeCursor([last.name, last.uid]) : null,
      };
    },
    show: async (id: string, within: Within): Promise<Node> => shown(await find(id, within)),
    /** Sites and labels decide who may reach a node and what it is given: they are not for those whose own rights hang on them.
     *  @throws AegisError nodes.unknown_node, nodes.retired, access.beyond_scope */
    patch: async (id: string, patch: NodePatch, within: Within): Promise<Node> => {
      if (within) {
        await find(id, within);
        if (patch.labels !== undefined || patch.site !== undefined) throw labelsBeyondScope(within.text);
      }
      return change('nodes.patch', id, within, async (tx, row) => {
        if (row.state === 'retired')
          throw new AegisError('nodes.retired', `The node '${row.name}' is retired and cannot be changed.`);
        await repository.update(tx, row.uid, {
          ...(patch.labels === undefined ? {} : { labels: sortedJson(patch.labels) }),
          ...(patch.site === undefined ? {} : { site: patch.site }),
          ...(patch.maintenance === undefined ? {} : { maintenance: patch.maintenance ? 1 : 0 }),
          updated_at: clock.now(),
        });
        const { maintenance } = patch;
        if (maintenance !== undefined && maintenance !== (row.maintenance === 1))
          await repository.tell(tx, row, 'node.maintenance', { maintenance });
      });
    },
    /** From now on its credentials are refused, or taken again. A repeat changes nothing. @throws AegisError nodes.retired */
    setActive: (id: string, active: boolean, within: Within): Promise<Node> =>
      change(active ? 'nodes.activate' : 'nodes.deactivate', id, within, async (tx, row) => {
        if (row.state === 'retired')
          throw new AegisError('nodes.retired', `The node '${row.name}' is retired and cannot be changed.`);
        if ((row.deactivated_at === null) === active) return;
        const now = clock.now();
        await repository.update(tx, row.uid, { deactivated_at: active ? null : now, updated_at: now });
        await repository.tell(tx, row, active ? 'node.activated' : 'node.deactivated');
      }),
    /** Retiring what is retired changes nothing. */
    retire: async (id: string, within: Within): Promise<Node> => {
      const node = await change('nodes.retire', id, within, async (tx, row) => {
        if (row.state === 'retired') return;
        await repository.update(tx, row.uid, { state: 'retired', updated_at: clock.now() });
        for (const hook of hooks) await hook.inTransaction(tx, row.uid);
        await repository.tell(tx, row, 'node.retired');
      });
      for (const hook of hooks) hook.afterwards();
      return node;
    },

    /** Names, uids, selectors and `all`, to the nodes they mean among those within, each once, in the order of the targets.
     *  @throws AegisError commands.unknown_target, commands.no_target, commands.bad_selector */
    resolveTargets: async (targets: readonly string[], within: Within): Promise<TargetNode[]> => {
      const selectors = new Map(targets.filter(looksLikeSelector).map((text) => [text, parseSelector(text)]));
      if (selectors.size > MAX_SELECTORS)
        throw new AegisError(
          'commands.bad_selector',
          `${selectors.size} selectors are more than the ${MAX_SELECTORS} that one command takes. Join them with 'or', or name the nodes.`,
        );
      const names = targets.filter((text) => !selectors.has(text));
      const named = new Map<string, TargetRow>();
      for (const row of await repository.targetsNamed(names))
        if (isWithin(within, row)) named.set(row.name, row).set(row.uid, row);
      const unknown = names.filter((name) => !named.has(name));
      if (unknown.length > 0) throw unknownTarget(unknown);
      const all =
        selectors.size > 0
          ? (await repository.targets())
              .filter((row) => isWithin(within, row))
              .map((row) => ({ row, as: selectable(presence, row) }))
          : [];
      const found = new Map<string, TargetNode>();
      const add = (row: TargetRow, by: string) => {
        if (!found.has(row.uid)) found.set(row.uid, targetOf(row, by));
      };
      for (const text of targets) {
        const selector = selectors.get(text);
        const one = named.get(text);
        if (selector) for (const { row, as } of all) matchSelector(selector, as) && add(row, text);
        else if (one) add(one, text);
      }
      if (found.size === 0)
        throw new AegisError(
          'commands.no_target',
          `No node matches ${targets
            .map((text) => `'${text.slice(0, 100)}'`)
            .slice(0, 5)
            .join(', ')}. See 'aegis nodes list'.`,
        );
      return [...found.values()];
    },

    /** Those within that bear one of these names or uids. */
    hostsNamed: async (
      names: readonly string[],
      within: Within,
    ): Promise<{ uid: string; name: string; keyId: string | null }[]> =>
      (await repository.targetsNamed(names))
        .filter((row) => isWithin(within, row))
        .map(({ uid, name, key_id }) => ({ uid, name, keyId: key_id })),
    /** Those of the nodes that are within, retired ones too. */
    uidsWithin: repository.uidsWithin,
    /** Names and uids of all that are within, retired ones too. */
    namesWithin: repository.namesWithin,

    statistics: async (): Promise<{ total: number; by_status: Record<string, number> }> => {
      const rows = await repository.targets();
      const by_status: Record<string, number> = {};
      for (const row of rows) {
        const status = statusOfRow(presence, row);
        by_status[status] = (by_status[status] ?? 0) + 1;
      }
      return { total: rows.length, by_status };
    },
  };
};
export type NodesService = ReturnType<typeof nodesService>;

const isWithin = (within: Within, { site, labels }: Pick<NodeRow, 'site' | 'labels'>): boolean =>
  within === null || within.includes({ site, labels: JSON.parse(labels) as Labels });

const unknownNode = (id: string): AegisError =>
  new AegisError('nodes.unknown_node', `No node '${id}'. See 'aegis nodes list'.`);
const labelsBeyondScope = (scope: string): AegisError =>
  new AegisError(
    'access.beyond_scope',
    `Site and labels decide who may reach a node, and the token is only for the nodes '${scope}'. Use a token without a scope to change them.`,
  );

/** Keys in order: the same labels are the same text. */
export const sortedJson = (labels: Readonly<Record<string, unknown>>): string =>
  JSON.stringify(Object.fromEntries(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))));

const knownOf = (row: NodeRow): KnownNode => ({
  uid: row.uid,
  name: row.name,
  state: z.parse(NodeState, row.state),
  keyId: row.key_id,
  publicKey: row.public_key,
  keyless: row.keyless === 1,
  deactivated: row.deactivated_at !== null,
});

/** @throws AegisError nodes.retired, nodes.deactivated */
const actorOfKnown = (node: KnownNode): NodeActor => {
  if (node.state === 'retired')
    throw new AegisError('nodes.retired', `The node '${node.name}' was retired. Enrol it anew with a new identity.`);
  if (node.deactivated)
    throw new AegisError(
      'nodes.deactivated',
      `The node '${node.name}' is deactivated: nothing is taken from it. An operator can activate it again.`,
    );
  return { kind: 'node', uid: node.uid, name: node.name, keyId: node.keyId, keyless: node.keyless };
};
/** @throws AegisError nodes.retired, nodes.deactivated */
export const actorOfRow = (row: NodeRow): NodeActor => actorOfKnown(knownOf(row));

const statusOfRow = (presence: Presence, row: TargetRow): NodeStatus =>
  presence.statusOf({
    uid: row.uid,
    state: z.parse(NodeState, row.state),
    maintenance: row.maintenance === 1,
    deactivated: row.deactivated_at !== null,
    said: row.said_status,
    lastSeen: row.last_seen,
  });

const candidateOf = (presence: Presence, row: TargetRow): Candidate => ({
  ...selectable(presence, row),
  uid: row.uid,
  keyId: row.key_id,
});
const selectable = (presence: Presence, row: TargetRow) => ({
  name: row.name,
  site: row.site,
  capabilities: JSON.parse(row.capabilities) as string[],
  os: row.os,
  container_engine: row.container_engine,
  status: statusOfRow(presence, row),
  labels: JSON.parse(row.labels) as Labels,
});

const filterOf = (query: NodeQuery, { rules }: Presence, now: number): NodeFilter => {
  const [key = '', value] = query.label?.split(/=(.*)/s) ?? [];
  return {
    site: query.site,
    os: query.os,
    container_engine: query.container_engine,
    capability: query.capability,
    label: query.label === undefined ? undefined : { key, value },
    status: query.status && {
      is: query.status,
      onlineSince: now - rules.degradedAfterMs,
      degradedSince: now - rules.offlineAfterMs,
    },
  };
};

const unknownTarget = (unknown: readonly string[]): AegisError => {
  const names = unknown.slice(0, 5).map((name) => `'${name.slice(0, 128)}'`);
  const more = unknown.length > names.length ? ` and ${unknown.length - names.length} more` : '';
  return new AegisError(
    'commands.unknown_target',
    `No node named ${names.join(', ')}${more}. See 'aegis nodes list'.`,
    {
      details: { unknown: unknown.slice(0, 100).map((name) => name.slice(0, 128)) },
    },
  );
};
