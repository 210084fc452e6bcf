/** Token buckets by key (a caller's address): `burst` at once, then `perSecond`. Bounded: with too many keys the one that
 *  waited longest is forgotten, which forgives it and never grows. */
export interface RateLimit {
  burst: number;
  perSecond: number;
}
export interface RateLimiter {
  /** 0 when the key may go on; otherwise the whole seconds after which it may. */
  take(key: string): number;
}

const MAX_KEYS = 10_000;

export const rateLimiter = (limit: RateLimit, now: () => number): RateLimiter => {
  const buckets = new Map<string, { tokens: number; at: number }>();
  return {
    take: (key) => {
      const at = now();
      const known = buckets.get(key);
      const elapsedSec = known ? Math.max(0, at - known.at) / 1000 : 0;
      const tokens = known ? Math.min(limit.burst, known.tokens + elapsedSec * limit.perSecond) : limit.burst;
      buckets.delete(key); // back to the end of the insertion order: the first one is always the longest unused
      if (buckets.size >= MAX_KEYS) buckets.delete(buckets.keys().next().value ?? '');
      const allowed = tokens >= 1;
      buckets.set(key, { tokens: allowed ? tokens - 1 : tokens, at });
      return allowed ? 0 : Math.max(1, Math.ceil((1 - tokens) / limit.perSecond));
    },
  };
};
