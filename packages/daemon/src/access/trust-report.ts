import { rootFingerprintOf } from '@aegis/protocol/access/trust-bundle';
import type { Attrs } from '@aegis/protocol/nodes/node';
import type { TrustStore } from './trust-store.ts';

/** What is told of the trust bundle: here by `aegis daemon status`, and to the server with the next token while its end is near. */

export interface TrustStatus {
  /** 0 when there is none. */
  version: number;
  /** `VERSION:DIGEST`, to compare with what `aegis access trust show` says. */
  head: string | null;
  root_fingerprint: string | null;
  expires_at: string | null;
  state: 'good' | 'due' | 'expiring' | 'expired';
}

type Trust = Pick<TrustStore, 'version' | 'current' | 'head' | 'age'>;

export const trustStatus = (trust: Trust): TrustStatus => {
  const bundle = trust.current();
  return {
    version: trust.version(),
    head: trust.head(),
    root_fingerprint: bundle && rootFingerprintOf(bundle.root),
    expires_at: bundle?.expires_at ?? null,
    state: trust.age(),
  };
};

/** Changes `attrs`: the end of a bundle that is about to expire or has; null once that is over. */
export const tellTrust = (attrs: Attrs, trust: Trust): void => {
  const state = trust.age();
  if (state === 'expiring' || state === 'expired')
    attrs.trust_expires_at = trust.current()?.expires_at ?? 'no trust bundle';
  else if ('trust_expires_at' in attrs) attrs.trust_expires_at = null;
};
