import { paddingOf } from './tar-header.ts';

/** Sparse files in GNU tar's format 1.0 (GNU tar manual, "PAX Format, Version 1.0"): the data area begins with a map in decimal, a
 *  line for the count of segments, then two for each, its offset and length; padded to whole blocks; then the segments' bytes. */

export interface Segment {
  offset: number;
  length: number;
}

export interface SparseLayout {
  map: Buffer;
  segments: readonly Segment[];
  /** Map and segments. */
  dataBytes: number;
}

/** Some millions of segments are possible, and the map stands in memory: beyond this, holes are stored as zeros, the smallest first. */
export const MOST_SEGMENTS = 65_536;

/** From `dataSegments`: start, end, start, end …; null for a file without holes.
 *  @param size of the content with its holes */
export const sparseLayout = (
  bounds: Float64Array,
  size: number,
  mostSegments: number = MOST_SEGMENTS,
): SparseLayout | null => {
  const segments = segmentsOf(bounds, size, mostSegments);
  if (segments.reduce((sum, { length }) => sum + length, 0) === size) return null;
  // GNU tar ends a map with an empty segment when the file ends with a hole: a reader that only follows the map gets the size right.
  const last = segments.at(-1);
  const end = last ? last.offset + last.length : 0;
  const listed = end < size ? [...segments, { offset: size, length: 0 }] : segments;
  const text = [`${listed.length}\n`, ...listed.map(({ offset, length }) => `${offset}\n${length}\n`)].join('');
  const map = Buffer.alloc(text.length + paddingOf(text.length));
  map.write(text, 'latin1');
  return { map, segments, dataBytes: segments.reduce((sum, { length }) => sum + length, map.length) };
};

/** No more than `most`: the smallest holes are filled. Numbers stay in typed arrays until there are few: whoever may write files makes millions. */
const segmentsOf = (bounds: Float64Array, size: number, most: number): Segment[] => {
  const offset = (at: number): number => bounds[2 * at] ?? 0;
  const end = (at: number): number => Math.min(bounds[2 * at + 1] ?? 0, size);
  let count = bounds.length >> 1;
  while (count > 0 && end(count - 1) <= offset(count - 1)) count -= 1; // it shrank since
  let left = count - most;
  const filled = left > 0 ? (holesOf(count, offset, end).sort()[left - 1] ?? 0) : -1;
  const result: Segment[] = [];
  for (let at = 0; at < count; at++) {
    const last = result.at(-1);
    if (last && left > 0 && offset(at) - last.offset - last.length <= filled) {
      last.length = end(at) - last.offset;
      left -= 1;
    } else result.push({ offset: offset(at), length: end(at) - offset(at) });
  }
  return result;
};

const holesOf = (count: number, offset: (at: number) => number, end: (at: number) => number): Float64Array => {
  const holes = new Float64Array(count - 1);
  for (let at = 1; at < count; at++) holes[at - 1] = offset(at) - end(at - 1);
  return holes;
};
