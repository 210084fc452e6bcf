import { expect, test } from 'vitest';
import { type Neighbour, tcxPlace } from './order.ts';

const at = (programId: number, priority: number, name = `a${programId}/p`, anchored = false): Neighbour => {
  const [artifact = '', program = ''] = name.split('/');
  return { programId, artifact, program, priority, anchored };
};
const wish = { artifact: 'mine', program: 'p', priority: 50 };

test('by priority, equals in the order in which they came', () => {
  expect(tcxPlace(wish, [])).toBe('last');
  expect(tcxPlace(wish, [at(1, 10), at(2, 50), at(3, 60), at(4, 70)])).toEqual({ before: 3 });
  expect(tcxPlace(wish, [at(1, 10), at(2, 50)])).toEqual({ after: 2 });
  expect(tcxPlace(wish, [at(1, 90, 'a1/p', true), at(2, 10), at(3, 1, 'a3/p', true)])).toEqual({ after: 2 });
  expect(tcxPlace(wish, [at(1, 90, 'a1/p', true)])).toEqual({ after: 1 });
});

test('anchors come before priorities, and are passed over when they are not there', () => {
  const ours = [at(1, 10, 'mine/other'), at(2, 90, 'theirs/p')];
  expect(tcxPlace({ ...wish, before: 'other' }, ours)).toEqual({ before: 1 });
  expect(tcxPlace({ ...wish, after: 'theirs/p' }, ours)).toEqual({ after: 2 });
  expect(tcxPlace({ ...wish, before: 'theirs/absent', after: 'absent' }, ours)).toEqual({ before: 2 });
});
