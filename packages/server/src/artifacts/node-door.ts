import type { Within } from '../platform/node-scope.ts';
import type { Tx } from '../tables.ts';

export interface KnownHost {
  uid: string;
  name: string;
  /** Null for a keyless poller. */
  keyId: string | null;
}
/** What artifacts need to know of nodes. Retired ones count as unknown. */
export interface NodeDoor {
  /** Those within that have one of the names or uids. */
  named: (names: readonly string[], within: Within) => Promise<readonly KnownHost[]>;
  /** @throws AegisError commands.unknown_target, commands.no_target, commands.bad_selector */
  resolve: (targets: readonly string[], within: Within) => Promise<readonly KnownHost[]>;
  /** As the transaction sees them. */
  activeIn: (tx: Tx, uids: readonly string[]) => Promise<ReadonlySet<string>>;
  activeUids: () => Promise<readonly string[]>;
  onlineOf: (uids: readonly string[]) => Promise<ReadonlySet<string>>;
  /** Retired ones too. @throws AegisError nodes.unknown_node */
  find: (id: string, within: Within) => Promise<{ uid: string }>;
}
