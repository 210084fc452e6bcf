import { isIPv6 } from 'node:net';

/** Token buckets by key (a caller's address, a token's id): `burst` at once, then `perSecond`. Bounded: with too many keys the one that
 *  waited longest is forgotten, which forgives it and never grows. */
export interface RateLimit {
  burst: number;
  perSecond: number;
}
export interface RateLimiter {
  /** 0 when the key may go on; otherwise the whole seconds after which it may. */
  take(key: string): number;
}
export interface AskedRateLimiter extends RateLimiter {
  /** What `take` would give, and nothing is taken. */
  waitSec(key: string): number;
}

const MAX_KEYS = 10_000;

export const rateLimiter = (limit: RateLimit, now: () => number): AskedRateLimiter => {
  const buckets = new Map<string, { tokens: number; at: number }>();
  const tokensOf = (key: string, at: number): number => {
    const known = buckets.get(key);
    const elapsedSec = known ? Math.max(0, at - known.at) / 1000 : 0;
    return known ? Math.min(limit.burst, known.tokens + elapsedSec * limit.perSecond) : limit.burst;
  };
  const waitSec = (tokens: number): number =>
    tokens >= 1 ? 0 : Math.max(1, Math.ceil((1 - tokens) / limit.perSecond));
  return {
    waitSec: (key) => waitSec(tokensOf(key, now())),
    take: (key) => {
      const at = now();
      const tokens = tokensOf(key, at);
      buckets.delete(key); // back to the end of the insertion order: the first one is always the longest unused
      if (buckets.size >= MAX_KEYS) buckets.delete(buckets.keys().next().value ?? '');
      buckets.set(key, { tokens: tokens >= 1 ? tokens - 1 : tokens, at });
      return waitSec(tokens);
    },
  };
};

const MAX_KEY_CHARS = 64;

/** What an address counts as: of IPv6 its first 64 bits, because whoever has one of these addresses has them all. */
export const addressKey = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(address)) return address.slice(0, MAX_KEY_CHARS);
  const [before = '', after] = (address.split('%', 1)[0] ?? '').split('::');
  const groups = (text: string): string[] => (text === '' ? [] : text.split(':'));
  const [first, last] = [groups(before), groups(after ?? '')];
  const between = after === undefined ? [] : Array<string>(Math.max(0, 8 - first.length - last.length)).fill('0');
  const network = [...first, ...between, ...last].slice(0, 4);
  return `${network.map((group) => Number.parseInt(group, 16).toString(16)).join(':')}::/64`;
};
