import type { Selectable } from '@aegis/protocol/commands/selector';
import type { NodeScope, Within } from '../platform/node-scope.ts';
import type { Tx } from '../tables.ts';

/** A node as a selector sees it; its status does not count here. */
export interface Candidate extends Selectable {
  uid: string;
  /** Null for a keyless one. */
  keyId: string | null;
}
/** What backups need to know of nodes. Retired ones count as unknown, except where it says otherwise. */
export interface NodeDoor {
  candidates: () => Promise<readonly Candidate[]>;
  candidate: (uid: string) => Promise<Candidate | null>;
  /** As the transaction sees them. */
  activeIn: (tx: Tx, uids: readonly string[]) => Promise<ReadonlySet<string>>;
  onlineOf: (uids: readonly string[]) => Promise<ReadonlySet<string>>;
  /** Retired ones too: their archives outlive them. By uid or name. @throws AegisError nodes.unknown_node */
  find: (id: string, within: Within) => Promise<{ uid: string; name: string }>;
  /** Names and uids of all that are within; retired ones too. */
  namesWithin: (within: NodeScope) => Promise<ReadonlySet<string>>;
  /** Raw Ed25519 and X25519 public keys; retired ones too. */
  keysOf: (uid: string) => Promise<{ publicKey: Buffer | null; sealingKey: Buffer | null } | null>;
}
/** The one counter that tells a node that some desired state of its is new. */
export interface DesiredDoor {
  /** Counts a change of each node, in the order of their uids, and holds their rows until the transaction ends. */
  bump: (tx: Tx, uids: readonly string[]) => Promise<[uid: string, revision: number][]>;
  /** After the commit: their waiting polls look again. */
  changed: (revisions: Iterable<readonly [uid: string, revision: number]>) => void;
}
