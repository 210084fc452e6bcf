/** Exponential backoff with full jitter in the upper half: each pause is drawn anew from [half, whole] of a bound that doubles. */
export interface Backoff {
  /** The next pause in milliseconds; at least `atLeastMs` when the other side asked for that. */
  next(atLeastMs?: number): number;
  reset(): void;
  readonly failures: number;
}

export const backoff = ({
  firstMs = 1000,
  maxMs = 60_000,
  random,
}: {
  firstMs?: number;
  maxMs?: number;
  random: () => number;
}): Backoff => {
  let failures = 0;
  return {
    next: (atLeastMs = 0) => {
      const bound = Math.min(maxMs, firstMs * 2 ** Math.min(failures, 30));
      failures++;
      if (atLeastMs > 0) return atLeastMs + (random() * Math.min(atLeastMs, maxMs)) / 4;
      return bound / 2 + (random() * bound) / 2;
    },
    reset: () => {
      failures = 0;
    },
    get failures() {
      return failures;
    },
  };
};
