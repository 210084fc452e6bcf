import type { ChannelNode } from './authenticate.ts';
import type { Connections } from './connections.ts';

/** Connections of nodes that are none of ours any more are ended: when the node is said to have changed, and when it may have. */

export interface Rechecking {
  /** The node is another than it was; null: nobody knows which ones are. */
  recheck(uid: string | null): void;
  /** Rises with each that was said. Who looked a node up, and counts among the connections only later, sees so whether to `look` again. */
  changes(): number;
  look(uid: string): Promise<void>;
}

/** Of a whole server's, so that requests come in between. */
const AT_ONCE = 8;

export const rechecking = (
  connections: Connections,
  nodeOf: (uid: string) => Promise<ChannelNode | null>,
): Rechecking => {
  let changes = 0;
  let sweeping = false;
  let again = false;

  const look = async (uid: string): Promise<void> => {
    const here = connections.of(uid);
    if (!here) return;
    try {
      const node = await nodeOf(uid);
      if (node === null || node.refused) here.dismiss();
    } catch {
      return; // the database is away: each call looks again
    }
  };
  const sweep = async (): Promise<void> => {
    again = true;
    if (sweeping) return;
    sweeping = true;
    while (again) {
      again = false;
      const uids = [...connections.all()].map(({ uid }) => uid);
      const some = async (): Promise<void> => {
        for (let uid = uids.pop(); uid !== undefined; uid = uids.pop()) await look(uid);
      };
      await Promise.all(Array.from({ length: AT_ONCE }, some));
    }
    sweeping = false;
  };
  return {
    recheck: (uid) => {
      changes++;
      void (uid === null ? sweep() : look(uid));
    },
    changes: () => changes,
    look,
  };
};
