import { expect, test } from 'vitest';
import { cancelFor, type OperatorCancel, withCancel } from './operator-cancels.ts';

/** What is kept of operators' cancels: one for each node, and one for all. */

const cancel = (node: string | null, word = String(node)): OperatorCancel => ({
  node,
  envelope: { payloadType: 'cancel', payload: word, signatures: [] },
});
const all = (cancels: readonly OperatorCancel[]): OperatorCancel[] => cancels.reduce<OperatorCancel[]>(withCancel, []);

test('the newer takes the place of the one for the same node, and of no other', () => {
  expect(all([cancel('a', '1'), cancel(null, '2'), cancel('b', '3'), cancel('a', '4')])).toEqual([
    cancel(null, '2'),
    cancel('b', '3'),
    cancel('a', '4'),
  ]);
});

test('beyond the bound one is refused, not dropped; that for all nodes, or anew for a node, is taken', () => {
  const full = all(Array.from({ length: 1000 }, (_, nth) => cancel(`n${nth}`)));
  expect(full).toHaveLength(1000);
  expect(() => withCancel(full, cancel('one-more'))).toThrow('cancel it on all nodes at once');
  expect(withCancel(full, cancel('n0', 'again'))).toHaveLength(1000);
  const text = JSON.stringify(withCancel(full, cancel(null)));
  expect(cancelFor(text, { uid: 'u', name: 'one-more' })?.payload).toBe('null');
});
