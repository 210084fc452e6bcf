import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  commandStateOf,
  decidedByServer,
  ExecutionState,
  FINAL_STATES,
  isFinal,
  mayRetry,
  reportedByNode,
  type Standing,
} from './state.ts';

const anyState = fc.constantFrom(...ExecutionState.options);
const event = fc.oneof(
  fc.record({ by: fc.constant('node' as const), to: anyState.filter((state) => state !== 'queued') }),
  fc.record({ by: fc.constant('server' as const), to: fc.constantFrom('expired', 'cancelled', 'lost', 'refused') }),
);

test('whatever arrives in whatever order: forward only, a node has the last word, and its first final word stays', () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), fc.boolean(), (events, offered) => {
      let now: Standing = { state: 'queued', presumed: false };
      let settled: string | null = null;
      const rank = (state: ExecutionState) => (isFinal(state) ? 3 : ['queued', 'delivered', 'running'].indexOf(state));
      for (const { by, to } of events) {
        const next =
          by === 'node'
            ? reportedByNode(now, to as Exclude<ExecutionState, 'queued'>)
            : decidedByServer(now, to as 'expired' | 'cancelled' | 'lost' | 'refused', offered);
        if (next === null) continue;
        expect(next).not.toEqual(now);
        if (!now.presumed) expect(rank(next.state)).toBeGreaterThan(rank(now.state));
        expect(settled).toBeNull();
        if (isFinal(next.state) && !next.presumed) settled = next.state;
        if (by === 'node') expect(next.presumed).toBe(false);
        now = next;
      }
      if (settled !== null) expect(now.state).toBe(settled);
    }),
    { numRuns: 2000 },
  );
});

test.each([
  [['queued', 'queued'], 'pending'],
  [['queued', 'succeeded'], 'running'],
  [['delivered'], 'running'],
  [['succeeded', 'succeeded'], 'succeeded'],
  [['succeeded', 'lost'], 'partial'],
  [['failed', 'expired'], 'failed'],
  [['cancelled', 'cancelled'], 'cancelled'],
  [['expired'], 'expired'],
  [['refused'], 'failed'],
] as [ExecutionState[], string][])('%j is %s', (states, expected) => {
  expect(commandStateOf(states)).toBe(expected);
});

test('retries: failures up to max_retries, lost only under at-least-once, nothing else', () => {
  const table = FINAL_STATES.map((state) => [
    state,
    mayRetry(state, 1, { maxRetries: 0, delivery: 'at-most-once' }),
    mayRetry(state, 1, { maxRetries: 1, delivery: 'at-most-once' }),
    mayRetry(state, 2, { maxRetries: 1, delivery: 'at-most-once' }),
    mayRetry(state, 2, { maxRetries: 1, delivery: 'at-least-once' }),
    mayRetry(state, 10, { maxRetries: 1, delivery: 'at-least-once' }),
  ]);
  expect(table).toEqual([
    ['succeeded', false, false, false, false, false],
    ['failed', false, true, false, false, false],
    ['timed_out', false, true, false, false, false],
    ['cancelled', false, false, false, false, false],
    ['lost', false, false, false, true, false],
    ['refused', false, false, false, false, false],
    ['expired', false, false, false, false, false],
  ]);
});
