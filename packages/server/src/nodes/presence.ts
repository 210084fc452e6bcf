import type { NodeState, NodeStatus } from '@aegis/protocol/nodes/node';
import type { Clock } from '../platform/clock.ts';

/** Signs of life. Kept in memory and written in groups (presence-loop.ts): a write per poll would be most of the writes. */

export interface PresenceRules {
  degradedAfterMs: number;
  offlineAfterMs: number;
}

export interface Presence {
  readonly rules: PresenceRules;
  seen(uid: string): void;
  /** A request of the node is open, which is a sign of life for as long as it is: a poll may wait longer than `degraded` takes.
   *  Call the result once, when it is over. */
  attend(uid: string): () => void;
  /** The latest sign of life: what this process saw, or what is stored. */
  lastSeen(uid: string, stored: number | null): number | null;
  statusOf(node: {
    uid: string;
    state: NodeState;
    maintenance: boolean;
    deactivated: boolean;
    /** `error` or `offline`, where the node says so. */
    said: string | null;
    lastSeen: number | null;
  }): NodeStatus;
  /** What is not stored yet; the caller stores it, or gives it back. */
  take(): Map<string, number>;
  giveBack(unstored: ReadonlyMap<string, number>): void;
}

export const presence = (rules: PresenceRules, clock: Clock): Presence => {
  let fresh = new Map<string, number>();
  const open = new Map<string, number>();
  const seen = (uid: string): void => {
    fresh.set(uid, clock.now());
  };
  const lastSeen = (uid: string, stored: number | null): number | null => {
    const here = open.has(uid) ? clock.now() : fresh.get(uid);
    return here === undefined ? stored : Math.max(here, stored ?? here);
  };
  return {
    rules,
    seen,
    attend: (uid) => {
      open.set(uid, (open.get(uid) ?? 0) + 1);
      return () => {
        seen(uid);
        const left = (open.get(uid) ?? 1) - 1;
        if (left > 0) open.set(uid, left);
        else open.delete(uid);
      };
    },
    lastSeen,
    statusOf: (node) => {
      if (node.state === 'retired') return 'offline';
      if (node.maintenance) return 'maintenance';
      if (node.deactivated || node.said === 'offline') return 'offline';
      const last = lastSeen(node.uid, node.lastSeen);
      if (last === null) return 'offline';
      const age = clock.now() - last;
      if (age > rules.offlineAfterMs) return 'offline';
      if (node.said === 'error') return 'error';
      return age > rules.degradedAfterMs ? 'degraded' : 'online';
    },
    take: () => {
      for (const uid of open.keys()) seen(uid);
      const taken = fresh;
      fresh = new Map();
      return taken;
    },
    giveBack: (unstored) => {
      for (const [uid, at] of unstored) if (!fresh.has(uid)) fresh.set(uid, at);
    },
  };
};
