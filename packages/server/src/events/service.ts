/** events: what happens in the fleet, kept for a while and told to whoever listens. Owns the table of events; the other domains hand in what
 *  happened with the transaction that makes it so, operators read it through routes.ts. Invariant: what was told is stored, ids rise in the
 *  order in which readers can see them, and a reader learns of everything that it may see or of a gap.
 *  Must not: know a domain, or hold up whoever writes. */
import { AegisError } from '@aegis/protocol/errors';
import { MAX_EVENT_CHARS } from '@aegis/protocol/events/event';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import { fewAtATime } from '../platform/few-at-a-time.ts';
import type { OperatorActor } from '../platform/http/actor.ts';
import type { Log } from '../platform/log.ts';
import type { Within } from '../platform/node-scope.ts';
import { type Statement, together } from '../platform/storage/statements.ts';
import type { Tell, Told } from '../platform/told.ts';
import type { Storage } from '../tables.ts';
import { type EventSelection, openEvents } from './reader.ts';
import { eventsRepository } from './repository.ts';
import { type EventRetention, eventRetention } from './retention-loop.ts';
import { openStreams, type StreamLimits } from './streams.ts';
import type { EventRow } from './tables.ts';
import { EVENTS_TOPIC, eventsTail } from './tail.ts';

/** What `publish` does, as statements to go with others. */
export type EventStatements = (events: readonly Told[]) => Statement[];

interface NodeFacts {
  uid: string;
  site: string | null;
  labels: Readonly<Record<string, string>>;
}
export interface EventsOptions {
  storage: Storage;
  bus: Bus;
  clock: Clock;
  log: Log;
  nodes: {
    /** Also of a retired node. @throws AegisError nodes.unknown_node */
    find(id: string, within: Within): Promise<NodeFacts>;
  };
  /** Who has this token now. @throws AegisError when nobody has */
  actorOf: (bearer: string) => Promise<OperatorActor>;
  limits: StreamLimits & { heartbeatMs: number };
  keep: EventRetention;
  stopping: AbortSignal;
}

type Reading = Pick<EventSelection, 'types' | 'from' | 'follow' | 'isGood' | 'format' | 'signal'> & {
  nodes: readonly string[] | null;
  within: Within;
};

/** Readers that are behind, who read at the same time. */
const READERS_AT_ONCE = 2;
const KEPT_NODES = 20_000;
const KEEP_FACTS_MS = 1000;

export const eventsService = (on: EventsOptions) => {
  const { storage, bus, clock } = on;
  const repository = eventsRepository(storage);
  const tail = eventsTail({ repository, bus, log: on.log });
  const source = { tail, repository, inTurn: fewAtATime(READERS_AT_ONCE) };
  const facts = new Map<string, { at: number; node: Promise<NodeFacts | null> }>();
  /** Only another server process can make one stale: how long that may last where its word of it was lost. */
  const keepMs = storage.kind === 'sqlite' ? Number.POSITIVE_INFINITY : KEEP_FACTS_MS;
  let written = false;
  storage.onCommit(() => {
    if (!written) return;
    written = false;
    bus.publish(EVENTS_TOPIC);
  });

  const statements: EventStatements = (events) => {
    if (events.length === 0) return [];
    written = true;
    const at = clock.now();
    return repository.inserts(events.map((event) => rowOf(event, at)));
  };
  const factsOf = (uid: string): Promise<NodeFacts | null> => {
    const known = facts.get(uid);
    if (known && performance.now() - known.at < keepMs) return known.node;
    if (facts.size >= KEPT_NODES) facts.delete(facts.keys().next().value ?? '');
    const node = on.nodes.find(uid, null).catch((error: unknown) => {
      facts.delete(uid); // it is asked for again
      if (error instanceof AegisError && error.code === 'nodes.unknown_node') return null;
      throw error; // it may be within: the stream breaks, and is taken up again before this event
    });
    facts.set(uid, { at: performance.now(), node });
    return node;
  };
  const isWithin = async (within: NonNullable<Within>, uid: string | null): Promise<boolean> => {
    if (uid === null) return false;
    const node = await factsOf(uid);
    return node !== null && within.includes(node);
  };

  return {
    /** The data of each MAX_EVENT_CHARS as JSON at most. */
    publish: (async (tx, events) => {
      await together(tx, statements(events));
    }) satisfies Tell,
    statements,
    /** A node is another than it was; null: any may be. */
    nodeChanged: (uid: string | null): void => {
      if (uid === null) facts.clear();
      else facts.delete(uid);
    },
    /** Before anything is written or read. */
    start: (): Promise<void> => repository.startAt(clock.now() * 1000),
    streams: openStreams(on),
    retention: eventRetention({ repository, keep: on.keep, clock }),
    /** @throws AegisError nodes.unknown_node, also for a node beyond the scope; http.unavailable */
    read: async ({ nodes, within, ...selection }: Reading): Promise<AsyncGenerator<string>> => {
      const found = await Promise.all((nodes ?? []).map((id) => on.nodes.find(id, within)));
      return await openEvents(source, {
        ...selection,
        nodeUids: nodes === null ? null : new Set(found.map(({ uid }) => uid)),
        mayTell: (row: EventRow) => within === null || isWithin(within, row.node_uid),
        heartbeatMs: on.limits.heartbeatMs,
      });
    },
  };
};
export type EventsService = ReturnType<typeof eventsService>;

const rowOf = ({ type, node, data }: Told, at: number): Omit<EventRow, 'id'> => {
  const text = JSON.stringify(data);
  if (text.length > MAX_EVENT_CHARS) throw new RangeError(`an event ${type} has ${text.length} characters`);
  return { at, type, node_uid: node?.uid ?? null, node_name: node?.name ?? null, data: text };
};
