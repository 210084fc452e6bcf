import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { Tell, Told } from '../platform/told.ts';
import type { Storage } from '../tables.ts';
import { type Carrier, type PresenceRow, presenceRepository } from './presence-repository.ts';

/** Whether nodes are there, and by which carrier, as it was told last: one row for each node, whichever server process it speaks with. What is
 *  seen here is compared with it, and the difference is an event. A connection that ends because its server does is none: the node comes back,
 *  or is silent for long enough. */

export interface SeenNode {
  uid: string;
  name: string;
}
type Seen = { node: SeenNode } & (
  | { is: 'connected'; session: string }
  | { is: 'closed'; session: string }
  | { is: 'polled' }
  | { is: 'silent' }
);

const PRESENCE_TOPICS = 'presence';
const EVERY_MS = 10_000;
/** How old a sign of life that another server process has seen may be in the database. */
const OTHERS_LATE_MS = 15_000;
/** How long what was told is taken from memory where another process may have told something else and its word of it was lost. */
const KEEP_MS = 60_000;
const KEPT = 50_000;

export const presenceEvents = (on: {
  storage: Storage;
  publish: Tell;
  bus: Bus;
  clock: Clock;
  log: Log;
  /** Milliseconds of the last signs of life, what this process has seen included. */
  lastSeen: (uids: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  offlineAfterMs: number;
  stopping: AbortSignal;
}) => {
  const { storage, bus } = on;
  const repository = presenceRepository(storage);
  const shared = storage.kind === 'postgres';
  const told = new Map<string, { carrier: Carrier; at: number }>();
  const underWay = new Set<string>();
  let failed: Seen[] = [];
  bus.onRemote(PRESENCE_TOPICS, (uid) => {
    if (uid === null) told.clear();
    else told.delete(uid);
  });

  const note = storage.writeTogether('events.presence', async (tx, all: readonly Seen[]) => {
    const rows = await repository.lock(
      tx,
      all.map(({ node }) => node.uid),
    );
    const events: Told[] = [];
    const changed = new Map<string, PresenceRow>();
    const carriers = all.map((seen) => {
      const before = rows.get(seen.node.uid) ?? { node_uid: seen.node.uid, carrier: null, session: '' };
      const { row, event } = after(before, seen);
      if (event) events.push({ ...event, node: seen.node });
      if (row !== before) changed.set(row.node_uid, row);
      rows.set(row.node_uid, row);
      return row.carrier;
    });
    await repository.store(tx, [...changed.values()]);
    await on.publish(tx, events);
    return carriers;
  });
  const say = async (seen: Seen): Promise<void> => {
    const { uid } = seen.node;
    try {
      const before = told.get(uid)?.carrier;
      const carrier = await note(seen);
      if (carrier === null) told.delete(uid);
      else {
        if (told.size >= KEPT) told.delete(told.keys().next().value ?? '');
        told.set(uid, { carrier, at: on.clock.now() });
      }
      if (carrier !== before) bus.publish(`${PRESENCE_TOPICS}:${uid}`);
    } catch (err) {
      on.log.warn({ err, uid, is: seen.is }, 'what a node is seen to be is not told yet');
      if (seen.is !== 'polled' && seen.is !== 'silent') failed.push(seen); // the others are seen again
    }
  };
  const open = new Map<string, string>();

  const turn = async (): Promise<void> => {
    const again = failed;
    failed = [];
    for (const seen of again) await say(seen);
    const before = on.clock.now() - on.offlineAfterMs - (shared ? OTHERS_LATE_MS : 0);
    const quiet = (await repository.quietSince(before)).filter(({ uid }) => !open.has(uid));
    const seen = await on.lastSeen(quiet.map(({ uid }) => uid));
    await Promise.all(
      quiet.filter(({ uid }) => (seen.get(uid) ?? 0) < before).map((node) => say({ node, is: 'silent' })),
    );
  };

  return {
    /** Call the result once, when it has ended. */
    connected: (connection: SeenNode & { sessionToken: string }): (() => void) => {
      const node = { uid: connection.uid, name: connection.name };
      const session = connection.sessionToken.slice(0, SESSION_CHARS);
      open.set(node.uid, session);
      const said = say({ node, is: 'connected', session });
      return () => {
        if (open.get(node.uid) === session) open.delete(node.uid);
        if (!on.stopping.aborted) void said.then(() => say({ node, is: 'closed', session }));
      };
    },
    /** It asks for work without a connection. */
    polled: (actor: SeenNode): void => {
      const { uid, name } = actor;
      const known = told.get(uid);
      const isFresh = known && (!shared || Math.abs(on.clock.now() - known.at) < KEEP_MS);
      if (open.has(uid) || underWay.has(uid) || (isFresh && known.carrier === 'poll')) return;
      underWay.add(uid);
      void say({ node: { uid, name }, is: 'polled' }).finally(() => underWay.delete(uid));
    },
    /** Part of the transaction that retires it: nothing more is told of it. */
    nodeRetired: repository.forget,
    /** One turn of the loop: who is silent. */
    turn,
    start: (signal: AbortSignal): void =>
      loop({ name: 'events.presence', everyMs: EVERY_MS, turn, signal, log: on.log }),
  };
};
export type PresenceEvents = ReturnType<typeof presenceEvents>;

/** Enough to tell two connections of one node apart. */
const SESSION_CHARS = 12;

const after = (before: PresenceRow, seen: Seen): { row: PresenceRow; event: Omit<Told, 'node'> | null } => {
  const to = (carrier: Carrier, session: string) => ({
    row: { ...before, carrier, session },
    event:
      before.carrier === carrier
        ? null
        : { type: before.carrier === null ? 'node.connected' : 'node.carrier', data: { carrier } },
  });
  const gone = (reason: string) => ({
    row: { ...before, carrier: null, session: '' },
    event: { type: 'node.disconnected', data: { reason } },
  });
  switch (seen.is) {
    case 'connected':
      return to('ws', seen.session);
    case 'polled':
      return before.carrier === 'poll' ? { row: before, event: null } : to('poll', '');
    case 'closed':
      return before.carrier === 'ws' && before.session === seen.session ? gone('closed') : { row: before, event: null };
    case 'silent':
      return before.carrier === null ? { row: before, event: null } : gone('silent');
  }
};
