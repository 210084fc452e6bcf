import type { Bus } from '../platform/bus.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';

/** Answers that go on for long, as followed output: cut when the token that asked for them ends. A revocation at any process is told at once;
 *  one that nobody told of (made without a server, a lost wake-up), and a token's own end, are found by looking. */

const LOOK_EVERY_MS = 2000;
/** Topics: a token was revoked. */
const REVOKED = 'access-revoked';

export interface TokenWatch {
  /** Calls `cut` once, when the token is good no more, unless what it gives back was called before. */
  watch(tokenId: string, cut: () => void): () => void;
  /** Here and at the other server processes. */
  revoked(tokenId: string): void;
}

export const tokenWatch = (on: {
  /** Those of these ids whose tokens are good. */
  goodOf: (ids: readonly string[]) => Promise<ReadonlySet<string>>;
  bus: Bus;
  stopping: AbortSignal;
  log: Log;
}): TokenWatch => {
  const watched = new Map<string, Set<() => void>>();
  const look = async (): Promise<void> => {
    const ids = [...watched.keys()];
    if (ids.length === 0) return;
    const good = await on.goodOf(ids);
    for (const id of ids)
      if (!good.has(id)) {
        const cuts = watched.get(id) ?? [];
        watched.delete(id);
        for (const cut of cuts) cut();
      }
  };
  const lookNow = (): void => {
    look().catch((err: unknown) => on.log.warn({ err }, 'whose answers have to end is looked at again in a moment'));
  };
  on.bus.onRemote(REVOKED, lookNow);
  loop({ name: 'access.tokens-watch', everyMs: LOOK_EVERY_MS, turn: look, signal: on.stopping, log: on.log });
  return {
    revoked: (id) => {
      lookNow();
      on.bus.publish(`${REVOKED}:${id}`);
    },
    watch: (id, cut) => {
      const own = () => cut(); // the same function may be given twice
      const cuts = watched.get(id) ?? new Set();
      watched.set(id, cuts.add(own));
      return () => {
        cuts.delete(own);
        if (cuts.size === 0 && watched.get(id) === cuts) watched.delete(id);
      };
    },
  };
};
