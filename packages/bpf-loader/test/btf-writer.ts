/** Writes raw BTF by hand, for what no compiler at hand emits: other byte order, old bit-fields, enum64, later headers, and lies. */
export interface RawType {
  kind: number;
  name?: string;
  flag?: boolean;
  count?: number;
  sizeOrType?: number;
  /** What follows the record, word by word; a text stands for its place among the strings. */
  tail?: (number | string)[];
}

export interface RawOptions {
  bigEndian?: boolean;
  /** Words after the usual header. */
  moreHeader?: number[];
  /** Bytes after the strings. */
  layout?: Uint8Array;
}

export const rawBtf = (
  types: RawType[],
  { bigEndian = false, moreHeader = [], layout }: RawOptions = {},
): Uint8Array => {
  const strings: number[] = [0];
  const places = new Map<string, number>([['', 0]]);
  const place = (text: string): number => {
    const known = places.get(text);
    if (known !== undefined) return known;
    const at = strings.length;
    places.set(text, at);
    strings.push(...Buffer.from(text), 0);
    return at;
  };
  const words: number[] = [];
  for (const { kind, name = '', flag = false, count = 0, sizeOrType = 0, tail = [] } of types)
    words.push(
      place(name),
      ((flag ? 1 : 0) * 2 ** 31 + kind * 2 ** 24 + count) >>> 0,
      sizeOrType,
      ...tail.map((one) => (typeof one === 'string' ? place(one) : one)),
    );
  const headerWords = layout ? [words.length * 4 + strings.length, layout.length, ...moreHeader] : moreHeader;
  const header = [24 + headerWords.length * 4, 0, words.length * 4, words.length * 4, strings.length, ...headerWords];
  const bytes = new Uint8Array(4 + header.length * 4 + words.length * 4 + strings.length + (layout?.length ?? 0));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 0xeb9f, !bigEndian);
  view.setUint8(2, 1);
  for (const [index, word] of [...header, ...words].entries()) view.setUint32(4 + index * 4, word >>> 0, !bigEndian);
  bytes.set(strings, 4 + (header.length + words.length) * 4);
  if (layout) bytes.set(layout, bytes.length - layout.length);
  return bytes;
};

/** The types that most of these tests need. */
export const int = (name: string, bytes: number, encoding = 0, bits = bytes * 8): RawType => ({
  kind: 1,
  name,
  sizeOrType: bytes,
  tail: [encoding * 2 ** 24 + bits],
});
export const pointer = (to: number): RawType => ({ kind: 2, sizeOrType: to });
export const array = (of: number, length: number): RawType => ({ kind: 3, tail: [of, of, length] });
export const struct = (
  name: string,
  bytes: number,
  members: [name: string, type: number, bits: number][],
  flag = false,
): RawType => ({
  kind: 4,
  name,
  flag,
  sizeOrType: bytes,
  count: members.length,
  tail: members.flat(),
});
export const typedef = (name: string, to: number): RawType => ({ kind: 8, name, sizeOrType: to });
