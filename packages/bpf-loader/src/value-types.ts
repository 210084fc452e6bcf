import { type Btf, DEPTH_LIMIT } from './btf.ts';
import type { BtfInt, BtfType } from './btf-types.ts';

/** What decoding and encoding agree on: how a type's names tell an address from a number, and text from bytes. */

/** JSON-able, but for bigints where these are asked for. */
export type Value = null | boolean | number | bigint | string | Value[] | { [member: string]: Value };

/** Integers of more than 32 bits, whose values may be beyond what a JSON number holds exactly. */
export type WideIntegers =
  /** A number where it is exact (|x| ≤ 2^53 − 1), else decimal text: jq can compare nearly all. The default. */
  | 'auto'
  /** Decimal text, always. */
  | 'text'
  | 'bigint';

/** Input that does not fit its type. `path` is empty for the value itself. */
export class ValueError extends Error {
  override readonly name = 'ValueError';
  readonly path: string;
  readonly expected: string;

  constructor(path: string, expected: string, got: string) {
    super(`${path || 'the value'}: expected ${expected}, got ${got}`);
    this.path = path;
    this.expected = expected;
  }
}

/** Names of typedefs and of the variable on the way to the type proper. */
export const namesAlong = (btf: Btf, id: number): string[] => {
  const names: string[] = [];
  let at = id;
  for (let depth = 0; depth <= DEPTH_LIMIT; depth += 1) {
    const one = btf.type(at);
    if (one.kind === 'typedef' || one.kind === 'variable') names.push(one.name);
    else if (!['const', 'volatile', 'restrict', 'type_tag'].includes(one.kind)) break;
    if (!('typeId' in one)) break;
    at = one.typeId;
  }
  return names;
};

const ADDRESS = /addr|ip6|ipv6|(^|_)ip(_|$)/i;
const MAC = /(^|_)(mac|hwaddr|lladdr|eth|h_dest|h_source)(_|$|\d)/i;

/** What an array is shown as, and may be given as. */
export type ArrayForm = 'text' | 'ipv6' | 'mac' | 'bytes' | 'elements';

/** @param hints names of the member or variable, and of typedefs */
export const arrayForm = (btf: Btf, elementId: number, length: number, hints: readonly string[]): ArrayForm => {
  const { type } = btf.resolve(elementId);
  if (type.kind !== 'int' || type.bool) return 'elements';
  const named = (pattern: RegExp) => hints.some((hint) => pattern.test(hint));
  if (isText(type)) return 'text';
  if (isByte(type)) {
    if (length === 16 && named(ADDRESS)) return 'ipv6';
    if (length === 6 && named(MAC)) return 'mac';
    return 'bytes';
  }
  const words = type.sizeBytes === 4 && length === 4;
  return words && namesAlong(btf, elementId).includes('__be32') && named(/6/) ? 'ipv6' : 'elements';
};

const isText = (type: BtfInt): boolean => type.char && type.sizeBytes === 1;
export const isByte = (type: BtfType): boolean =>
  type.kind === 'int' && type.sizeBytes === 1 && !type.signed && !type.char && !type.bool;

/** Network order by its name, as the kernel's headers mark it. */
export type WireOrder = 'be16' | 'be32' | 'be64' | null;

export const wireOrder = (btf: Btf, id: number): WireOrder => {
  const names = namesAlong(btf, id);
  if (names.includes('__be32')) return 'be32';
  if (names.includes('__be16')) return 'be16';
  return names.includes('__be64') ? 'be64' : null;
};

/** `struct in_addr` and `struct in6_addr` are their text, not objects. */
export const addressStruct = (type: BtfType): 'ipv4' | 'ipv6' | null => {
  if (type.kind !== 'struct') return null;
  if (type.name === 'in_addr' && type.sizeBytes === 4) return 'ipv4';
  return type.name === 'in6_addr' && type.sizeBytes === 16 ? 'ipv6' : null;
};

/** The value of a bit-field: `bits` from bit `from` on, counted as the byte order counts them. */
export const readBits = (bytes: Uint8Array, littleEndian: boolean, from: number, bits: number): bigint => {
  const first = Math.floor(from / 8);
  const last = Math.floor((from + bits - 1) / 8);
  let all = 0n;
  for (let at = first; at <= last; at += 1) {
    const byte = BigInt(bytes[at] ?? 0);
    all = littleEndian ? all | (byte << BigInt((at - first) * 8)) : (all << 8n) | byte;
  }
  const below = littleEndian ? from - first * 8 : (last + 1) * 8 - from - bits;
  return BigInt.asUintN(bits, all >> BigInt(below));
};
