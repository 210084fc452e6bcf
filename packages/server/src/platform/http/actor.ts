import type { Caller, Role } from '@aegis/protocol/access/roles';

/** Who calls, as the access domain found out from the credentials; never from a body. */
export interface TokenActor {
  readonly kind: 'token';
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  /** A selector (protocol/access/scope): only these nodes exist for it. Null: the whole fleet. */
  readonly scope: string | null;
}
/** A request without credentials under `--dev`, by the rule in access/dev-rule.ts: counts as admin. */
export interface DevActor {
  readonly kind: 'dev';
  readonly id: 'dev';
  readonly name: 'dev';
  readonly role: 'admin';
  readonly scope: null;
}
export interface NodeActor {
  readonly kind: 'node';
  readonly uid: string;
  readonly name: string;
  /** Null for a keyless poller. */
  readonly keyId: string | null;
  readonly keyless: boolean;
}
export type OperatorActor = TokenActor | DevActor;
export type Actor = OperatorActor | NodeActor;

/** What a route's handler gets: what its declaration demanded. Where anyone may call, null means that no good credential came. */
export type ActorFor<C extends Caller> = C extends 'node'
  ? NodeActor
  : C extends Role
    ? OperatorActor
    : C extends 'viewer-or-node'
      ? Actor
      : Actor | null;
