import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import * as z from 'zod/mini';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { Storage } from '../tables.ts';
import type { Connection, Connections } from './connections.ts';

/** Who is connected, at whichever server process: this one's from memory, the others' from a table that each keeps for its own. A process that
 *  died tells no more, and a while later its connections count no more. With one process there is no table to keep. */

export interface ConnectionFacts {
  expiresAtMs: number;
  channels: readonly string[];
}
export interface AgentConnections {
  of(uid: string): Promise<ConnectionFacts | null>;
  uids(): Promise<ReadonlySet<string>>;
  /** Call the result once, when it has ended. */
  attached(connection: Connection): () => void;
  /** Resolves when the other processes know that this one is there, which it says again from then on. */
  start(signal: AbortSignal): Promise<void>;
}

export const connectionsOf = (storage: Storage, here: () => Connections, log: Log): AgentConnections =>
  storage.kind === 'sqlite' ? ownConnections(here) : sharedConnections(storage, here, log);

const factsOf = ({ expiresAtMs, channels }: Connection): ConnectionFacts => ({ expiresAtMs, channels: channels ?? [] });

/** Of a server that has its database for itself. */
const ownConnections = (here: () => Connections): AgentConnections => ({
  of: async (uid) => {
    const connection = here().of(uid);
    return connection && factsOf(connection);
  },
  uids: async () => new Set([...here().all()].map(({ uid }) => uid)),
  attached: () => () => undefined,
  start: async () => undefined,
});

/** Nothing was heard of a process for so long: it is not there. */
const SILENT_MS = 15_000;
const EVERY_MS = 4000;
const ROWS_AT_ONCE = 500;
const Metadata = z.object({ channels: z.array(z.string()) });
/** One clock for all processes. */
const NOW = sql<number>`cast(extract(epoch from clock_timestamp()) * 1000 as bigint)`;

type Change = { connection: Connection } | { ended: Connection };

const sharedConnections = (storage: Storage, here: () => Connections, log: Log): AgentConnections => {
  const serverId = randomUUID();
  let complete = true;
  const live = () =>
    storage.read
      .selectFrom('agent_connections')
      .innerJoin('channel_servers', 'channel_servers.id', 'agent_connections.server_id')
      .where('server_id', '<>', serverId)
      .where('channel_servers.seen_at', '>', sql<number>`${NOW} - ${SILENT_MS}`)
      .where('agent_connections.expires_at', '>', NOW);
  const note = storage.writeTogether('channel.connections', async (tx, changes: readonly Change[]) => {
    for (const change of changes) {
      if ('ended' in change) {
        const { uid, sessionToken } = change.ended;
        await tx
          .deleteFrom('agent_connections')
          .where('agent_id', '=', uid)
          .where('session_token', '=', nameOf(sessionToken))
          .execute();
        continue;
      }
      const { connection } = change;
      const row = {
        session_token: nameOf(connection.sessionToken),
        server_id: serverId,
        connected_at: connection.connectedAtMs,
        expires_at: connection.expiresAtMs,
        metadata: JSON.stringify({ channels: connection.channels ?? [] }),
      };
      await tx
        .insertInto('agent_connections')
        .values({ agent_id: connection.uid, ...row })
        .onConflict((conflict) => conflict.column('agent_id').doUpdateSet(row))
        .execute();
    }
    return changes.map(() => undefined);
  });
  const noted = (change: Change): void => {
    note(change).catch((err: unknown) => {
      complete = false; // the next turn of the loop says it again
      log.warn({ err }, 'the other server processes are not told yet of a connection');
    });
  };
  const sayAll = async (): Promise<void> => {
    complete = true;
    const all = [...here().all()];
    await storage.write('channel.connections-forget', async (tx) => {
      await tx.deleteFrom('agent_connections').where('server_id', '=', serverId).execute();
    });
    for (let at = 0; at < all.length; at += ROWS_AT_ONCE)
      await Promise.all(all.slice(at, at + ROWS_AT_ONCE).map((connection) => note({ connection })));
  };

  /** This process is there, and others that are not are forgotten. @returns whether the others know of no such process */
  const beThere = (): Promise<boolean> =>
    storage.write('channel.upkeep', async (tx) => {
      const { numUpdatedRows } = await tx
        .updateTable('channel_servers')
        .set({ seen_at: NOW })
        .where('id', '=', serverId)
        .executeTakeFirst();
      const unknown = numUpdatedRows === 0n;
      if (unknown) await tx.insertInto('channel_servers').values({ id: serverId, seen_at: NOW }).execute();
      const gone = await tx
        .deleteFrom('channel_servers')
        .where('seen_at', '<', sql<number>`${NOW} - ${2 * SILENT_MS}`)
        .returning('id')
        .execute();
      for (const { id } of gone) await tx.deleteFrom('agent_connections').where('server_id', '=', id).execute();
      return unknown;
    });
  const upkeep = async (): Promise<void> => {
    try {
      // One that was away for long was forgotten, with its connections.
      if (await beThere()) complete = false;
      if (!complete) await sayAll();
    } catch (error) {
      complete = false;
      throw error;
    }
  };

  return {
    of: async (uid) => {
      const connection = here().of(uid);
      if (connection) return factsOf(connection);
      const row = await live()
        .select(['agent_connections.expires_at', 'agent_connections.metadata'])
        .where('agent_id', '=', uid)
        .executeTakeFirst();
      return row ? { expiresAtMs: row.expires_at, ...z.parse(Metadata, JSON.parse(row.metadata)) } : null;
    },
    uids: async () => {
      const rows = await live().select('agent_id').execute();
      return new Set([...[...here().all()].map(({ uid }) => uid), ...rows.map((row) => row.agent_id)]);
    },
    attached: (connection) => {
      noted({ connection });
      return () => noted({ ended: connection });
    },
    start: async (signal) => {
      await beThere(); // nobody is connected yet
      loop({ name: 'channel.connections', everyMs: EVERY_MS, turn: upkeep, signal, log });
    },
  };
};

/** It names a session in logs and grants nothing; still no more of it is kept than tells two apart. */
const nameOf = (sessionToken: string): string => sessionToken.slice(0, 12);
