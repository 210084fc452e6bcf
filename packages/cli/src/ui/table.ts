import { plainText, truncated } from './plain-text.ts';

/** Aligned columns for people. A pipe gets every cell in full; `width` (a terminal's) cuts the last column. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[], width?: number): string => {
  const cells = [head, ...rows].map((row) => row.map(plainText));
  const widths = head.map((_, column) => widest(cells.map((row) => [...(row[column] ?? '')].length)));
  return cells
    .map((row) => {
      const line = row
        .map((cell, column) => {
          const gap = (widths[column] ?? 0) - [...cell].length;
          return column === row.length - 1 ? cell : cell + ' '.repeat(gap);
        })
        .join('  ')
        .trimEnd();
      return width === undefined ? line : truncated(line, width);
    })
    .map((line) => `${line}\n`)
    .join('');
};

/** Not by Math.max(...): a large fleet has more rows than a call may have arguments. */
const widest = (lengths: readonly number[]): number => lengths.reduce((most, one) => Math.max(most, one), 0);

/** `key: value` lines, values aligned. */
export const facts = (pairs: readonly (readonly [string, string | null | undefined])[]): string => {
  const shown = pairs.flatMap(([key, value]) =>
    value === null || value === undefined ? [] : [[plainText(key), plainText(value)] as const],
  );
  const width = Math.max(0, ...shown.map(([key]) => key.length));
  return shown.map(([key, value]) => `${`${key}:`.padEnd(width + 2)}${value}\n`).join('');
};
