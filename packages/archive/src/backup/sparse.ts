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
  const segments = merged(segmentsOf(bounds, size), mostSegments);
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

const segmentsOf = (bounds: Float64Array, size: number): Segment[] => {
  const segments: Segment[] = [];
  for (let at = 0; at + 1 < bounds.length; at += 2) {
    const offset = bounds[at] ?? 0;
    const end = Math.min(bounds[at + 1] ?? 0, size);
    if (end > offset) segments.push({ offset, length: end - offset });
  }
  return segments;
};

/** Fills the smallest holes until there are few enough segments. */
const merged = (segments: Segment[], most: number): Segment[] => {
  if (segments.length <= most) return segments;
  const gaps = segments.slice(1).map((one, at) => one.offset - endOf(segments[at]));
  const filled = Float64Array.from(gaps).sort()[segments.length - 1 - most] ?? Number.POSITIVE_INFINITY;
  const result: Segment[] = [];
  let left = segments.length - most;
  for (const one of segments) {
    const last = result.at(-1);
    if (last && left > 0 && one.offset - endOf(last) <= filled) {
      last.length = one.offset + one.length - last.offset;
      left -= 1;
    } else result.push({ ...one });
  }
  return result;
};

const endOf = (segment: Segment | undefined): number => (segment ? segment.offset + segment.length : 0);
