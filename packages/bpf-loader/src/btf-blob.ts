import { BtfError } from './btf-types.ts';

/** Finds the records of a raw BTF blob and checks their shape: every offset, length, name and type reference lies inside.
 *  Takes time in proportion to the blob, whatever stands in it. */

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
/** The header that has a layout section too (Linux 7.2). */
const HEADER_WITH_LAYOUT_BYTES = 32;
const RECORD_BYTES = 12;
/** vmlinux has about 6 MB. */
export const BTF_LIMIT_BYTES = 64 * 1024 * 1024;
/** KSYM_NAME_LEN is 512; declaration tags may be longer. */
const NAME_LIMIT_BYTES = 4096;

export const KIND = {
  int: 1,
  pointer: 2,
  array: 3,
  struct: 4,
  union: 5,
  enum: 6,
  forward: 7,
  typedef: 8,
  volatile: 9,
  const: 10,
  restrict: 11,
  function: 12,
  prototype: 13,
  variable: 14,
  section: 15,
  float: 16,
  tag: 17,
  typeTag: 18,
  enum64: 19,
} as const;

/** Bytes after the record of a kind: fixed, and for each of its elements. */
const TAIL: Readonly<Record<number, readonly [fixed: number, each: number]>> = {
  [KIND.int]: [4, 0],
  [KIND.pointer]: [0, 0],
  [KIND.array]: [12, 0],
  [KIND.struct]: [0, 12],
  [KIND.union]: [0, 12],
  [KIND.enum]: [0, 8],
  [KIND.forward]: [0, 0],
  [KIND.typedef]: [0, 0],
  [KIND.volatile]: [0, 0],
  [KIND.const]: [0, 0],
  [KIND.restrict]: [0, 0],
  [KIND.function]: [0, 0],
  [KIND.prototype]: [0, 8],
  [KIND.variable]: [4, 0],
  [KIND.section]: [0, 12],
  [KIND.float]: [0, 0],
  [KIND.tag]: [4, 0],
  [KIND.typeTag]: [0, 0],
  [KIND.enum64]: [0, 12],
};
const REFERS_BY_RECORD: ReadonlySet<number> = new Set([
  KIND.pointer,
  KIND.typedef,
  KIND.volatile,
  KIND.const,
  KIND.restrict,
  KIND.function,
  KIND.prototype,
  KIND.variable,
  KIND.tag,
  KIND.typeTag,
]);

export interface BtfBlob {
  readonly view: DataView;
  readonly littleEndian: boolean;
  /** Place of each type's record in the view, by type id; that of void (0) is unused. */
  readonly places: Int32Array;
  /** One of KIND, or a later kernel's. */
  kindAt(id: number): number;
  nameAt(id: number): string;
  /** @throws BtfError for an offset outside of the strings, or a name beyond the limit */
  stringAt(offset: number): string;
}

/** Bits 24 to 30 hold the kind and the lower ones the count: up to Linux 7.1 five and sixteen of them, the others zero. */
export const kindOf = (info: number): number => (info >>> 24) & 0x7f;
export const countOf = (info: number): number => info & 0xffffff;
export const flagOf = (info: number): boolean => info >>> 31 === 1;

/** @throws BtfError */
export const readBlob = (bytes: Uint8Array): BtfBlob => {
  if (bytes.length < HEADER_BYTES) throw new BtfError(`BTF of ${bytes.length} bytes is shorter than its header`);
  if (bytes.length > BTF_LIMIT_BYTES) throw new BtfError(`BTF of ${bytes.length} bytes is beyond ${BTF_LIMIT_BYTES}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const littleEndian = view.getUint16(0, true) === MAGIC;
  if (!littleEndian && view.getUint16(0, false) !== MAGIC)
    throw new BtfError('it does not begin with the magic of BTF');
  const u32 = (place: number) => view.getUint32(place, littleEndian);
  const version = view.getUint8(2);
  if (version !== 1) throw new BtfError(`version ${version} of BTF is not known`);
  const headerBytes = u32(4);
  if (headerBytes < HEADER_BYTES || headerBytes > bytes.length)
    throw new BtfError(`a header of ${headerBytes} bytes in ${bytes.length}`);
  const part = (what: string, place: number): [from: number, to: number] => {
    const from = headerBytes + u32(place);
    const to = from + u32(place + 4);
    if (to > bytes.length) throw new BtfError(`the ${what} end at ${to}, beyond the ${bytes.length} bytes there are`);
    return [from, to];
  };
  const [typesFrom, typesTo] = part('types', 8);
  const [stringsFrom, stringsTo] = part('strings', 16);
  if (stringsTo === stringsFrom || bytes[stringsFrom] !== 0 || bytes[stringsTo - 1] !== 0)
    throw new BtfError('the strings do not begin and end with a zero');
  const layout = headerBytes >= HEADER_WITH_LAYOUT_BYTES ? part('layouts', 24) : null;

  const strings = Buffer.from(bytes.buffer, bytes.byteOffset + stringsFrom, stringsTo - stringsFrom);
  const stringAt = (offset: number): string => {
    if (offset >= strings.length) throw new BtfError(`a name at ${offset}, beyond the strings`);
    const end = strings.indexOf(0, offset);
    if (end - offset > NAME_LIMIT_BYTES) throw new BtfError(`a name of ${end - offset} bytes`);
    return strings.toString('utf8', offset, end);
  };

  const tailOf = (kind: number): readonly [number, number] => {
    const known = TAIL[kind];
    if (known) return known;
    const place = layout ? layout[0] + kind * 4 : 0;
    if (!layout || kind === 0 || place + 4 > layout[1]) throw new BtfError(`kind ${kind} of BTF is not known`);
    return [view.getUint8(place), view.getUint8(place + 1)];
  };
  const places = findRecords(typesFrom, typesTo, u32, tailOf);
  checkReferences(places, u32, strings.length);
  return {
    view,
    littleEndian,
    places,
    kindAt: (id) => kindOf(u32((places[id] ?? 0) + 4)),
    nameAt: (id) => stringAt(u32(places[id] ?? 0)),
    stringAt,
  };
};

type ReadU32 = (place: number) => number;

const findRecords = (
  from: number,
  to: number,
  u32: ReadU32,
  tailOf: (kind: number) => readonly [number, number],
): Int32Array => {
  const places = new Int32Array(Math.floor((to - from) / RECORD_BYTES) + 1);
  let count = 1;
  let at = from;
  while (at < to) {
    if (at + RECORD_BYTES > to) throw new BtfError(`type ${count} is cut off`);
    const info = u32(at + 4);
    const [fixed, each] = tailOf(kindOf(info));
    const next = at + RECORD_BYTES + fixed + each * countOf(info);
    if (next > to) throw new BtfError(`type ${count} is cut off`);
    places[count] = at;
    count += 1;
    at = next;
  }
  return places.subarray(0, count);
};

/** Once here, so that no later step needs to doubt a type id or a record's name. */
const checkReferences = (places: Int32Array, u32: ReadU32, stringBytes: number): void => {
  const types = places.length;
  for (let id = 1; id < types; id += 1) {
    const place = places[id] ?? 0;
    const info = u32(place + 4);
    const kind = kindOf(info);
    const wrong = (typeId: number) => new BtfError(`type ${id} refers to type ${typeId} of ${types}`);
    if (u32(place) >= stringBytes) throw new BtfError(`the name of type ${id} lies beyond the strings`);
    if (REFERS_BY_RECORD.has(kind) && u32(place + 8) >= types) throw wrong(u32(place + 8));
    if (kind === KIND.array) {
      if (u32(place + 12) >= types) throw wrong(u32(place + 12));
      if (u32(place + 16) >= types) throw wrong(u32(place + 16));
      continue;
    }
    const at = ELEMENT_TYPE[kind];
    if (!at) continue;
    const [firstTypeAt, named] = at;
    const each = TAIL[kind]?.[1] ?? 0;
    for (let index = 0, element = place + RECORD_BYTES; index < countOf(info); index += 1, element += each) {
      if (named && u32(element) >= stringBytes) throw new BtfError(`a name in type ${id} lies beyond the strings`);
      if (firstTypeAt >= 0 && u32(element + firstTypeAt) >= types) throw wrong(u32(element + firstTypeAt));
    }
  }
};

/** Where in an element its type id stands (-1: none), and whether it begins with a name. */
const ELEMENT_TYPE: Readonly<Record<number, readonly [typeAt: number, named: boolean]>> = {
  [KIND.struct]: [4, true],
  [KIND.union]: [4, true],
  [KIND.enum]: [-1, true],
  [KIND.enum64]: [-1, true],
  [KIND.prototype]: [4, true],
  [KIND.section]: [0, false],
};
