import { AegisError } from '@aegis/protocol/errors';

/** The connections that are up, at most one for each node. A newer one takes the place of an older only when its first sealed message has
 *  opened: a handshake that somebody captured puts nobody out. */

export interface Connection {
  readonly uid: string;
  readonly name: string;
  readonly sessionToken: string;
  readonly remoteAddress: string;
  readonly connectedAtMs: number;
  readonly expiresAtMs: number;
  /** Beside the built-in ones: that the node named in its hello; null when it named none. */
  readonly channels: readonly string[] | null;
  /** Sends an event. @throws AegisError http.unavailable, http.too_large */
  notify(channel: string, body: unknown): Promise<void>;
  /** The node's answer. @throws AegisError as the node said; http.unavailable when the connection ends first, or after `timeoutMs` */
  request(channel: string, body: unknown, options: { timeoutMs: number; signal?: AbortSignal }): Promise<unknown>;
  /** About each second. */
  tick(): void;
  end(reason: AegisError, closeCode: number): void;
  /** The node is none of ours any more. */
  dismiss(): void;
  /** Lets calls under way have their answer first, for at most so long. */
  stop(graceMs: number): void;
  /** Resolves when it has ended. */
  readonly closed: Promise<void>;
}

export const connections = () => {
  const byNode = new Map<string, Connection>();
  return {
    of: (uid: string): Connection | null => byNode.get(uid) ?? null,
    all: (): Iterable<Connection> => byNode.values(),
    count: (): number => byNode.size,
    /** @returns what was there before, which the caller ends */
    add: (connection: Connection): Connection | null => {
      const before = byNode.get(connection.uid) ?? null;
      byNode.set(connection.uid, connection);
      return before;
    },
    /** An older one that ends late takes nothing away. */
    remove: (connection: Connection): void => {
      if (byNode.get(connection.uid) === connection) byNode.delete(connection.uid);
    },
    tick: (): void => {
      for (const connection of [...byNode.values()]) connection.tick();
    },
  };
};
export type Connections = ReturnType<typeof connections>;

export const superseded = () =>
  new AegisError('http.unavailable', 'The node connected anew: this connection was the older one.');
