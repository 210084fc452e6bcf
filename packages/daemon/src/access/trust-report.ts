import type { Attrs } from '@aegis/protocol/nodes/node';
import type { TrustStore } from './trust-store.ts';

/** What is told of the trust bundle: here by `aegis daemon status`, and to the server with the next token while its end is near. */

export interface TrustStatus {
  /** 0 when there is none. */
  version: number;
  expires_at: string | null;
  state: 'good' | 'due' | 'expiring' | 'expired';
}

type Trust = Pick<TrustStore, 'version' | 'current' | 'age'>;

export const trustStatus = (trust: Trust): TrustStatus => ({
  version: trust.version(),
  expires_at: trust.current()?.expires_at ?? null,
  state: trust.age(),
});

/** Changes `attrs`: the end of a bundle that is about to expire or has; null once that is over. */
export const tellTrust = (attrs: Attrs, trust: Trust): void => {
  const { expires_at, state } = trustStatus(trust);
  if (state === 'expiring' || state === 'expired') attrs.trust_expires_at = expires_at ?? 'no trust bundle';
  else if ('trust_expires_at' in attrs) attrs.trust_expires_at = null;
};
