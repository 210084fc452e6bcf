import { expect, test } from 'vitest';
import { execution } from '../../test/scripted-server.ts';
import { countsText, nodeRows, visibleRows } from './node-rows.ts';

test('the last line: whole lines, pieces put together, carriage returns and control sequences taken out', () => {
  const rows = nodeRows(['web-1']);
  const after = (text: string) => {
    rows.output('web-1', 'stdout', Buffer.from(text));
    return rows.all()[0]?.lastLine;
  };
  expect(after('one\ntwo')).toBe('two');
  expect(after(' and a half')).toBe('two and a half');
  expect(after('\n\n')).toBe('two and a half');
  expect(after('10 %\r20 %\r')).toBe('20 %');
  expect(after('\n\u001b]0;title\u0007\u001b[31mred\u001b[0m\u001b[2K')).toBe('red');
  expect(after(`\n${'x'.repeat(100_000)}`)).toBe('x'.repeat(400));
});

test('with more nodes than lines the failed come first, then the running; the others are counted', () => {
  const rows = nodeRows(Array.from({ length: 100 }, (_, index) => `web-${index + 1}`));
  for (let index = 1; index <= 90; index++) rows.state(execution('succeeded', { index }));
  rows.state(execution('failed', { index: 50, exit_code: 1 }));
  rows.state(execution('failed', { index: 95, exit_code: 2 }));
  rows.state(execution('running', { index: 96 }));
  const { shown, hidden } = visibleRows(rows.all(), 4);
  expect(shown.map(({ node, state }) => `${node} ${state}`)).toEqual(
    ['web-50 succeeded', 'web-95 failed', 'web-96 running', 'web-100 queued'].with(0, 'web-50 failed'),
  );
  expect(countsText(hidden)).toBe('7 queued, 89 succeeded');
});

test('a late state of an earlier attempt changes nothing', () => {
  const rows = nodeRows(['web-1']);
  rows.state(execution('running', { attempt: 2 }));
  rows.state(execution('failed', { attempt: 1, exit_code: 1 }));
  expect(rows.all().map(({ state, attempt }) => ({ state, attempt }))).toEqual([{ state: 'running', attempt: 2 }]);
});
