import { renderToString } from 'ink';
import { expect, test } from 'vitest';
import type { NodeRow } from '../following/node-rows.ts';
import { Frame } from './live-view.tsx';
import { plainText } from './plain-text.ts';

const now = Date.parse('2026-01-31T08:00:12.000Z');
const row = (node: string, state: NodeRow['state'], more: Partial<NodeRow> = {}): NodeRow => ({
  node,
  state,
  attempt: 1,
  exit: '',
  startedAt: state === 'queued' ? null : '2026-01-31T08:00:00.000Z',
  finishedAt: null,
  lastLine: '',
  ...more,
});
const rows = [
  row('web-1', 'running', {
    lastLine: 'Reading package lists... Done, and much more is said than a line of eighty columns holds',
  }),
  row('web-2', 'succeeded', { exit: '0', finishedAt: '2026-01-31T08:00:03.500Z', lastLine: 'done' }),
  row('web-3', 'failed', {
    exit: '100',
    finishedAt: '2026-01-31T08:00:09.000Z',
    lastLine: 'E: Unable to fetch some archives',
  }),
  row('database-primary-of-frankfurt-1', 'queued'),
];
const frame = (columns: number, lines: number, asking = false, shown = rows) =>
  renderToString(
    <Frame
      title="apt-get update"
      rows={shown}
      startedAt={now - 12_000}
      asking={asking}
      now={now}
      columns={columns}
      lines={lines}
    />,
    { columns },
  )
    .split('\n')
    .map((line) => plainText(line).trimEnd());

test('80 columns', () => {
  const lines = frame(80, 24);
  expect(lines).toMatchInlineSnapshot(`
    [
      "apt-get update                                                    2/4 ended  12s",
      "NODE                   STATE          TIME LAST LINE",
      "database-primary-of… · queued",
      "web-1                ▸ running         12s Reading package lists... Done, and m…",
      "web-2                ✔ succeeded      3.5s done",
      "web-3                ✖ failed 100     9.0s E: Unable to fetch some archives",
      "1 running, 1 succeeded, 1 failed, 1 queued  (Ctrl-C: cancel or detach)",
    ]
  `);
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
});

test('40 columns, and a question', () => {
  const lines = frame(40, 24, true);
  expect(lines).toMatchInlineSnapshot(`
    [
      "apt-get update            2/4 ended  12s",
      "NODE         STATE          TIME LAST L…",
      "database-… · queued",
      "web-1      ▸ running         12s Readin…",
      "web-2      ✔ succeeded      3.5s done",
      "web-3      ✖ failed 100     9.0s E: Una…",
      "c: cancel  d: detach  Enter: go on",
    ]
  `);
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(40);
});

test('300 nodes on 12 lines', () => {
  const many = Array.from({ length: 300 }, (_, index) =>
    row(`node-${String(index).padStart(3, '0')}`, index < 2 ? 'failed' : index < 10 ? 'running' : 'queued'),
  );
  const lines = frame(80, 12, false, many);
  expect(lines).toMatchInlineSnapshot(`
    [
      "apt-get update                                                  2/300 ended  12s",
      "NODE       STATE          TIME LAST LINE",
      "node-000 ✖ failed          12s",
      "node-001 ✖ failed          12s",
      "node-002 ▸ running         12s",
      "node-003 ▸ running         12s",
      "node-004 ▸ running         12s",
      "node-005 ▸ running         12s",
      "node-006 ▸ running         12s",
      "… and 293 more: 3 running, 290 queued",
      "2 failed, 8 running, 290 queued  (Ctrl-C: cancel or detach)",
    ]
  `);
  expect(lines.length).toBeLessThan(12);
});
