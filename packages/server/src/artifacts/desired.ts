import type { Clock } from '../platform/clock.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';

/** Each node's desired-state revision, as its waiting poll asks for it: from memory, so that polls cost nothing. */

const KEPT_NODES = 50_000;
const NODES_AT_ONCE = 500;

export const desiredState = (on: {
  repository: AssignmentsRepository;
  clock: Clock;
  /** How long a revision may be taken from memory: another server process may change it. */
  keepMs: number;
  /** Lets the node's waiting poll look again. */
  wake: (uid: string) => void;
  /** Tells of each node that another server process has woken, before its poll looks again; null: it may have woken any. */
  onWoken: (listener: (uid: string | null) => void) => void;
  activeUids: () => Promise<readonly string[]>;
}) => {
  const kept = new Map<string, { revision: number; at: number }>();
  /** Wake-ups by other processes so far: what was read before one of them is not kept. */
  let wakings = 0;
  on.onWoken((uid) => {
    wakings++;
    if (uid === null) kept.clear();
    else kept.delete(uid);
  });
  /** Revisions only grow: a reading that was overtaken by a change never takes its place. */
  const keep = (uid: string, revision: number): number => {
    const newest = Math.max(revision, kept.get(uid)?.revision ?? 0);
    if (kept.size >= KEPT_NODES && !kept.has(uid)) kept.delete(kept.keys().next().value ?? '');
    kept.set(uid, { revision: newest, at: on.clock.now() });
    return newest;
  };
  const changed = (revisions: Iterable<readonly [uid: string, revision: number]>): void => {
    for (const [uid, revision] of revisions) {
      keep(uid, revision);
      on.wake(uid);
    }
  };
  return {
    /** @param held what the node says that it has: where that is newer than what is kept here, another process has changed it, or the
     *  database is an older one than the node knows */
    revisionOf: async (uid: string, held = 0): Promise<number> => {
      const known = kept.get(uid);
      if (known && known.revision >= held && on.clock.now() - known.at <= on.keepMs) return known.revision;
      const before = wakings;
      const revision = await on.repository.revisionOf(uid);
      return wakings === before ? keep(uid, revision) : Math.max(revision, kept.get(uid)?.revision ?? 0);
    },
    /** Part of a transaction that changes another kind of desired state; `changed` after its commit.
     *  @param uids in their order */
    bump: on.repository.bump,
    /** As the database has it now. */
    storedRevisionOf: on.repository.revisionOf,
    /** After the commit. */
    changed,
    forget: (uid: string): void => {
      kept.delete(uid);
    },
    /** Wakes every node that has not been woken for this version of the trust bundle, so that it fetches it. */
    announceTrust: async (version: number): Promise<void> => {
      const uids = [...(await on.activeUids())].sort();
      for (let at = 0; at < uids.length; at += NODES_AT_ONCE) {
        const some = uids.slice(at, at + NODES_AT_ONCE);
        changed(
          await on.repository.write('artifacts.announce-trust', (tx) => on.repository.announceTrust(tx, some, version)),
        );
      }
    },
  };
};
export type DesiredState = ReturnType<typeof desiredState>;
