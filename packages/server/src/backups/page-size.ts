/** Pages are bounded by their rows and by their text: what nodes and operators may write of each is a lot, times a thousand. */

const PAGE_CHARS = 8 * 1024 * 1024;

/** As many of the rows as make one answer, the first in any case. */
export const withinPage = <T>(rows: readonly T[], charsOf: (row: T) => number): T[] => {
  let chars = 0;
  const tooMuch = rows.findIndex((row) => {
    chars += charsOf(row);
    return chars > PAGE_CHARS;
  });
  return tooMuch < 0 ? [...rows] : rows.slice(0, Math.max(1, tooMuch));
};
/** What the next page begins after; undefined at the end. */
export const lastOf = <T>(shown: readonly T[], found: readonly unknown[], limit: number): T | undefined =>
  shown.length < found.length || found.length === limit ? shown.at(-1) : undefined;
