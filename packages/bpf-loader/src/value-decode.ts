import { isUtf8 } from 'node:buffer';
import { type Btf, DEPTH_LIMIT, POINTER_BYTES } from './btf.ts';
import { type BtfComposite, type BtfEnum, BtfError, type BtfInt, type BtfType } from './btf-types.ts';
import { hexText, ipv4Text, ipv6Text, macText } from './network-addresses.ts';
import {
  addressStruct,
  arrayForm,
  namesAlong,
  readBits,
  type Value,
  type WideIntegers,
  wireOrder,
} from './value-types.ts';

/** Bytes to values by their type. What hostile BTF can cost is bounded: so many values, so deep, nothing read beyond the bytes. */

const VALUES_LIMIT = 1_000_000;

export interface DecodeOptions {
  wideIntegers?: WideIntegers;
}

interface Reading {
  btf: Btf;
  bytes: Uint8Array;
  wide: WideIntegers;
  /** Values that may still come. */
  left: number;
}

/** @param bytes at least the type's size; more only feeds a flexible array at the end of a struct
 *  @throws BtfError */
export const decode = (btf: Btf, typeId: number, bytes: Uint8Array, options: DecodeOptions = {}): Value => {
  const reading: Reading = { btf, bytes, wide: options.wideIntegers ?? 'auto', left: VALUES_LIMIT };
  const size = btf.sizeOf(typeId);
  if (bytes.length < size)
    throw new BtfError(`${btf.describe(typeId)} takes ${size} bytes, and there are ${bytes.length}`);
  return decodeAt(reading, typeId, 0, [], 0);
};

const decodeAt = (reading: Reading, typeId: number, at: number, hints: readonly string[], depth: number): Value => {
  if (depth > DEPTH_LIMIT) throw new BtfError(`types are nested more than ${DEPTH_LIMIT} deep`);
  spend(reading);
  const { btf } = reading;
  const { type } = btf.resolve(typeId);
  switch (type.kind) {
    case 'int': {
      if (type.bits !== type.sizeBytes * 8) return decodeBits(reading, type, at * 8 + type.bitOffset, type.bits);
      const order = wireOrder(btf, typeId);
      if (order === 'be32' && type.sizeBytes === 4) return ipv4Text(take(reading, at, 4));
      const little = order === null ? btf.littleEndian : false;
      const raw = readBits(take(reading, at, type.sizeBytes), little, 0, type.sizeBytes * 8);
      return integer(type, raw, type.bits, reading.wide);
    }
    case 'enum':
      return decodeBits(reading, type, at * 8, type.sizeBytes * 8);
    case 'pointer':
      return pointer(readBits(take(reading, at, POINTER_BYTES), btf.littleEndian, 0, 64));
    case 'float':
      return float(take(reading, at, type.sizeBytes), btf.littleEndian);
    case 'array':
      return decodeArray(reading, type.elementId, type.length, at, [...hints, ...namesAlong(btf, typeId)], depth);
    case 'struct':
    case 'union': {
      const address = addressStruct(type);
      if (address) return address === 'ipv4' ? ipv4Text(take(reading, at, 4)) : ipv6Text(take(reading, at, 16));
      return Object.fromEntries(membersOf(reading, type, at, depth));
    }
    case 'section':
      return Object.fromEntries(
        type.variables.map(({ typeId: variable, offset }) => {
          const { name } = { name: '', ...btf.type(variable) };
          return [name, decodeAt(reading, variable, at + offset, [name], depth + 1)];
        }),
      );
    default:
      throw new BtfError(`${btf.describe(typeId)} has no contents`);
  }
};

const spend = (reading: Reading): void => {
  reading.left -= 1;
  if (reading.left < 0) throw new BtfError(`more than ${VALUES_LIMIT} values`);
};

/** Name and value of each member; those of an unnamed struct or union count as the outer one's, as in C. */
const membersOf = (reading: Reading, type: BtfComposite, at: number, depth: number): [string, Value][] => {
  const entries: [string, Value][] = [];
  for (const [index, member] of type.members.entries()) {
    spend(reading);
    const from = at * 8 + member.bitOffset;
    const inner = reading.btf.resolve(member.typeId).type;
    if (member.bitSize > 0) {
      // An unnamed bit-field is padding.
      if (member.name) entries.push([member.name, decodeBits(reading, inner, from, member.bitSize)]);
      continue;
    }
    if (from % 8 !== 0) {
      if (inner.kind !== 'int') throw new BtfError(`member '${member.name}' begins inside of a byte`);
      entries.push([member.name, decodeBits(reading, inner, from + inner.bitOffset, inner.bits)]);
      continue;
    }
    const place = from / 8;
    if (!member.name && (inner.kind === 'struct' || inner.kind === 'union')) {
      if (depth >= DEPTH_LIMIT) throw new BtfError(`types are nested more than ${DEPTH_LIMIT} deep`);
      // One by one: spreading a long list into push() would be too many arguments.
      for (const entry of membersOf(reading, inner, place, depth + 1)) entries.push(entry);
      continue;
    }
    const flexible = depth === 0 && index === type.members.length - 1 && inner.kind === 'array' && inner.length === 0;
    if (flexible) {
      const each = reading.btf.sizeOf(inner.elementId);
      const length = each > 0 ? Math.max(0, Math.floor((reading.bytes.length - place) / each)) : 0;
      entries.push([member.name, decodeArray(reading, inner.elementId, length, place, [member.name], depth + 1)]);
      continue;
    }
    entries.push([member.name, decodeAt(reading, member.typeId, place, [member.name], depth + 1)]);
  }
  return entries;
};

const decodeArray = (
  reading: Reading,
  elementId: number,
  length: number,
  at: number,
  hints: readonly string[],
  depth: number,
): Value => {
  const { btf } = reading;
  const each = btf.sizeOf(elementId);
  const form = arrayForm(btf, elementId, length, hints);
  const elements = (): Value[] => {
    const values: Value[] = [];
    for (let index = 0; index < length; index += 1)
      values.push(decodeAt(reading, elementId, at + index * each, hints, depth + 1));
    return values;
  };
  switch (form) {
    case 'text': {
      const bytes = take(reading, at, length);
      const end = bytes.indexOf(0);
      const text = end < 0 ? bytes : bytes.subarray(0, end);
      return isUtf8(text) ? Buffer.from(text).toString('utf8') : elements();
    }
    case 'ipv6':
      return ipv6Text(take(reading, at, 16));
    case 'mac':
      return macText(take(reading, at, 6));
    case 'bytes':
      return hexText(take(reading, at, length));
    case 'elements':
      return elements();
  }
};

const decodeBits = (reading: Reading, type: BtfType, from: number, bits: number): Value => {
  const first = Math.floor(from / 8);
  const last = Math.floor((from + bits - 1) / 8);
  const raw = readBits(take(reading, first, last - first + 1), reading.btf.littleEndian, from - first * 8, bits);
  if (type.kind === 'enum') return enumeration(type, raw, bits, reading.wide);
  if (type.kind === 'int') return integer(type, raw, bits, reading.wide);
  throw new BtfError(`a bit-field of type ${type.kind}`);
};

const integer = (type: BtfInt, raw: bigint, bits: number, wide: WideIntegers): Value => {
  if (type.bool) return raw !== 0n;
  return number(type.signed ? BigInt.asIntN(bits, raw) : raw, bits, wide);
};

const number = (value: bigint, bits: number, wide: WideIntegers): Value => {
  if (bits <= 32) return Number(value);
  if (wide === 'bigint') return value;
  const exact = value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER);
  return wide === 'auto' && exact ? Number(value) : value.toString();
};

const enumeration = (type: BtfEnum, raw: bigint, bits: number, wide: WideIntegers): Value =>
  namesOfEnum(type, bits).get(raw) ?? number(type.signed ? BigInt.asIntN(bits, raw) : raw, bits, wide);

const enumNames = new WeakMap<BtfEnum, Map<number, Map<bigint, string>>>();

/** By the bits that stand there. A constant that the bits cannot hold is left out; of two with one value, the first counts. */
const namesOfEnum = (type: BtfEnum, bits: number): Map<bigint, string> => {
  const byBits = enumNames.get(type) ?? new Map<number, Map<bigint, string>>();
  enumNames.set(type, byBits);
  const known = byBits.get(bits);
  if (known) return known;
  const names = new Map<bigint, string>();
  for (const { name, value } of type.values) {
    const raw = BigInt.asUintN(bits, value);
    if ((raw === value || BigInt.asIntN(bits, value) === value) && !names.has(raw)) names.set(raw, name);
  }
  byBits.set(bits, names);
  return names;
};

const pointer = (value: bigint): string => `0x${value.toString(16)}`;

const float = (bytes: Uint8Array, little: boolean): Value => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const value =
    bytes.length === 4 ? view.getFloat32(0, little) : bytes.length === 8 ? view.getFloat64(0, little) : null;
  if (value === null) return hexText(bytes);
  // JSON has no words for these.
  return Number.isFinite(value) ? value : String(value);
};

const take = (reading: Reading, at: number, length: number): Uint8Array => {
  if (at + length > reading.bytes.length)
    throw new BtfError(`a value at ${at} ends beyond the ${reading.bytes.length} bytes`);
  return reading.bytes.subarray(at, at + length);
};
