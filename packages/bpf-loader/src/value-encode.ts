import { type Btf, DEPTH_LIMIT, POINTER_BYTES } from './btf.ts';
import { type BtfComposite, BtfError, type BtfMember, type BtfSection, type BtfType } from './btf-types.ts';
import { hexBytes, ipv4Bytes, ipv6Bytes, macBytes } from './network-addresses.ts';
import { addressStruct, arrayForm, isByte, ValueError, wireOrder } from './value-types.ts';

/** Values to bytes by their type: the inverse of decoding, with more forms allowed. What is left out is zero; what is unknown,
 *  too large or contradicts another member of a union is refused by the path of the field and what it takes. */

interface Writing {
  btf: Btf;
  bytes: Uint8Array;
  /** Bits that a member has set: a second one of the same union must agree with it. */
  written: Uint8Array;
  /** Members that may still be looked at: hostile BTF can nest without end. */
  left: number;
}

const MEMBERS_LIMIT = 1_000_000;

/** @throws ValueError for the value, BtfError for a type that has no contents */
export const encode = (btf: Btf, typeId: number, value: unknown): Uint8Array => {
  const size = btf.sizeOf(typeId);
  const writing: Writing = { btf, bytes: new Uint8Array(size), written: new Uint8Array(size), left: MEMBERS_LIMIT };
  encodeAt(writing, typeId, 0, value, '', [], 0);
  return writing.bytes;
};

const encodeAt = (
  writing: Writing,
  typeId: number,
  at: number,
  value: unknown,
  path: string,
  hints: readonly string[],
  depth: number,
): void => {
  if (depth > DEPTH_LIMIT) throw new BtfError(`types are nested more than ${DEPTH_LIMIT} deep`);
  const { btf } = writing;
  const { type } = btf.resolve(typeId);
  switch (type.kind) {
    case 'int': {
      const wire = wireOrder(btf, typeId);
      const address = type.sizeBytes === 4 && !type.signed && typeof value === 'string' ? ipv4Bytes(value) : null;
      if (!address && wire === 'be32' && type.sizeBytes === 4) throw new ValueError(path, IPV4, show(value));
      const raw = address ? 0n : scalar(type, type.bits, value, path);
      if (address) put(writing, at, address, path);
      else if (type.bits !== type.sizeBytes * 8) putBits(writing, at * 8 + type.bitOffset, type.bits, raw, path);
      else put(writing, at, numberBytes(raw, type.sizeBytes, wire === null && btf.littleEndian), path);
      break;
    }
    case 'enum':
    case 'pointer': {
      const size = type.kind === 'enum' ? type.sizeBytes : POINTER_BYTES;
      put(writing, at, numberBytes(scalar(type, size * 8, value, path), size, btf.littleEndian), path);
      break;
    }
    case 'float':
      put(writing, at, floatBytes(type.sizeBytes, value, path, btf.littleEndian), path);
      break;
    case 'array':
      encodeArray(writing, type.elementId, type.length, at, value, path, hints, depth);
      break;
    case 'struct':
    case 'union': {
      const whole = wholeBytes(type, value, path);
      if (whole) put(writing, at, whole, path);
      else encodeMembers(writing, type, at, value, path, depth);
      break;
    }
    case 'section':
      encodeSection(writing, type, at, value, path, depth);
      break;
    default:
      throw new BtfError(`${btf.describe(typeId)} has no contents`);
  }
};

const IPV4 = 'an IPv4 address such as 192.0.2.9';
const IPV6 = 'an IPv6 address such as 2001:db8::9';

/** Of a struct or union that is given as one text: an address, or all of its bytes in hex. Null: it is given by members. */
const wholeBytes = (type: BtfComposite, value: unknown, path: string): Uint8Array | null => {
  const text = typeof value === 'string' ? value : null;
  const address = addressStruct(type);
  if (!address) {
    const bytes = text === null ? null : hexBytes(text);
    return bytes?.length === type.sizeBytes ? bytes : null;
  }
  const bytes = text === null ? null : address === 'ipv4' ? ipv4Bytes(text) : ipv6Bytes(text);
  if (!bytes) throw new ValueError(path, address === 'ipv4' ? IPV4 : IPV6, show(value));
  return bytes;
};

const encodeMembers = (
  writing: Writing,
  type: BtfComposite,
  at: number,
  value: unknown,
  path: string,
  depth: number,
): void => {
  const known = placesOf(writing, type, at * 8, depth);
  for (const [name, one] of entriesOf(value, known, path)) {
    const place = known.get(name);
    if (!place) continue;
    const below = path ? `${path}.${name}` : name;
    const inner = writing.btf.resolve(place.member.typeId).type;
    if (place.member.bitSize > 0 || place.from % 8 !== 0) {
      const bits = place.member.bitSize || (inner.kind === 'int' ? inner.bits : 0);
      if (bits === 0) throw new BtfError(`member '${name}' begins inside of a byte`);
      putBits(writing, place.from, bits, scalar(inner, bits, one, below), below);
    } else encodeAt(writing, place.member.typeId, place.from / 8, one, below, [name], depth + 1);
  }
};

interface Place {
  member: BtfMember;
  /** In bits, from the start of everything. */
  from: number;
}

/** Members by name, those of unnamed structs and unions among them. */
const placesOf = (writing: Writing, type: BtfComposite, from: number, depth: number): Map<string, Place> => {
  if (depth > DEPTH_LIMIT) throw new BtfError(`types are nested more than ${DEPTH_LIMIT} deep`);
  const places = new Map<string, Place>();
  for (const member of type.members) {
    writing.left -= 1;
    if (writing.left < 0) throw new BtfError(`more than ${MEMBERS_LIMIT} members`);
    const inner = writing.btf.resolve(member.typeId).type;
    const place = { member, from: from + member.bitOffset };
    if (member.name) places.set(member.name, place);
    else if (inner.kind === 'struct' || inner.kind === 'union')
      for (const [name, one] of placesOf(writing, inner, place.from, depth + 1)) places.set(name, one);
  }
  return places;
};

const encodeSection = (
  writing: Writing,
  type: BtfSection,
  at: number,
  value: unknown,
  path: string,
  depth: number,
): void => {
  const known = new Map<string, { typeId: number; offset: number }>();
  for (const variable of type.variables) {
    const one = writing.btf.type(variable.typeId);
    if ('name' in one) known.set(one.name, variable);
  }
  for (const [name, one] of entriesOf(value, known, path)) {
    const place = known.get(name);
    const below = path ? `${path}.${name}` : name;
    if (place) encodeAt(writing, place.typeId, at + place.offset, one, below, [name], depth + 1);
  }
};

/** @throws ValueError for anything but an object with known members */
const entriesOf = (value: unknown, known: ReadonlyMap<string, unknown>, path: string): [string, unknown][] => {
  const names = [...known.keys()].slice(0, 20).join(', ') + (known.size > 20 ? ', …' : '');
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ValueError(path, `an object with the members ${names}`, show(value));
  const entries = Object.entries(value);
  for (const [name] of entries)
    if (!known.has(name))
      throw new ValueError(path ? `${path}.${name}` : name, `one of the members ${names}`, 'an unknown one');
  return entries;
};

const encodeArray = (
  writing: Writing,
  elementId: number,
  length: number,
  at: number,
  value: unknown,
  path: string,
  hints: readonly string[],
  depth: number,
): void => {
  const { btf } = writing;
  const each = btf.sizeOf(elementId);
  if (Array.isArray(value)) {
    if (value.length > length) throw new ValueError(path, `at most ${length} elements`, `${value.length}`);
    for (const [index, one] of value.entries())
      encodeAt(writing, elementId, at + index * each, one, `${path}[${index}]`, hints, depth + 1);
    return;
  }
  const form = arrayForm(btf, elementId, length, hints);
  if (typeof value !== 'string') throw new ValueError(path, wantedArray(form, length), show(value));
  put(writing, at, form === 'text' ? textBytes(value, length, path) : listBytes(value), path);

  function listBytes(text: string): Uint8Array {
    const size = each * length;
    const bytes =
      (size === 16 ? ipv6Bytes(text) : null) ??
      (size === 6 ? macBytes(text) : null) ??
      (size === 4 ? ipv4Bytes(text) : null) ??
      hexBytes(text);
    const whole =
      bytes !== null && (isByte(btf.resolve(elementId).type) ? bytes.length <= size : bytes.length === size);
    if (!whole) throw new ValueError(path, wantedArray(form, length), show(text));
    return bytes;
  }
};

/** With the closing zero where there is room; what follows is nobody's. */
const textBytes = (value: string, length: number, path: string): Uint8Array => {
  const text = Buffer.from(value, 'utf8');
  if (text.length > length) throw new ValueError(path, `text of at most ${length} bytes`, `${text.length} bytes`);
  return Buffer.concat([text, Buffer.alloc(Math.min(1, length - text.length))]);
};

const wantedArray = (form: ReturnType<typeof arrayForm>, length: number): string => {
  if (form === 'text') return `text of at most ${length} bytes`;
  if (form === 'ipv6') return IPV6;
  if (form === 'mac') return 'a hardware address such as 02:00:5e:10:00:01';
  if (form === 'bytes') return `at most ${length} bytes in hex (0x…) or as an array`;
  return `an array of at most ${length} elements`;
};

/** The bits of an integer, enum or pointer. */
const scalar = (type: BtfType, bits: number, value: unknown, path: string): bigint => {
  if (type.kind === 'int' && type.bool) {
    const truth = new Map<unknown, bigint>([
      [true, 1n],
      [1, 1n],
      ['true', 1n],
      [false, 0n],
      [0, 0n],
      ['false', 0n],
    ]).get(value);
    if (truth === undefined) throw new ValueError(path, 'true or false', show(value));
    return truth;
  }
  const named = type.kind === 'enum' ? type.values.find(({ name }) => name === value) : undefined;
  const number = named?.value ?? wholeNumber(value);
  const top = 1n << BigInt(bits);
  const signed = type.kind === 'int' && type.signed;
  // Without its flag an enum may be either (see btf-record.ts).
  const least = signed || type.kind === 'enum' ? -(top / 2n) : 0n;
  const most = signed ? top / 2n - 1n : top - 1n;
  if (number !== null && number >= least && number <= most) return BigInt.asUintN(bits, number);
  if (type.kind === 'enum') {
    const names = type.values.slice(0, 20).map(({ name }) => name);
    throw new ValueError(path, `one of ${names.join(', ')}${type.values.length > 20 ? ', …' : ''}`, show(value));
  }
  if (type.kind !== 'int' && type.kind !== 'pointer') throw new BtfError(`a bit-field of type ${type.kind}`);
  throw new ValueError(path, `a whole number from ${least} to ${most}`, show(value));
};

const wholeNumber = (value: unknown): bigint | null => {
  if (typeof value === 'bigint') return value;
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : null;
  const text = typeof value === 'string' ? /^(-?)(0x[0-9a-f]{1,32}|\d{1,40})$/i.exec(value) : null;
  if (!text) return null;
  const size = BigInt(text[2] ?? '0');
  return text[1] ? -size : size;
};

const numberBytes = (raw: bigint, size: number, little: boolean): Uint8Array => {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 1) bytes[little ? at : size - 1 - at] = Number((raw >> BigInt(at * 8)) & 0xffn);
  return bytes;
};

const floatBytes = (size: number, value: unknown, path: string, little: boolean): Uint8Array => {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
  const odd = Number.isNaN(number) && value !== 'NaN' && !Number.isNaN(value);
  if (typeof number !== 'number' || odd || (size !== 4 && size !== 8)) {
    const bytes = typeof value === 'string' ? hexBytes(value) : null;
    if (bytes?.length === size) return bytes;
    throw new ValueError(path, 'a number', show(value));
  }
  const view = new DataView(new ArrayBuffer(size));
  if (size === 4) view.setFloat32(0, number, little);
  else view.setFloat64(0, number, little);
  return new Uint8Array(view.buffer);
};

const put = (writing: Writing, at: number, bytes: Uint8Array, path: string): void => {
  if (at + bytes.length > writing.bytes.length) throw new BtfError(`'${path}' lies beyond its type`);
  for (const [index, byte] of bytes.entries()) putByte(writing, at + index, byte, 0xff, path);
};

const putBits = (writing: Writing, from: number, bits: number, raw: bigint, path: string): void => {
  const first = Math.floor(from / 8);
  const last = Math.floor((from + bits - 1) / 8);
  if (last >= writing.bytes.length) throw new BtfError(`'${path}' lies beyond its type`);
  const little = writing.btf.littleEndian;
  const below = BigInt(little ? from - first * 8 : (last + 1) * 8 - from - bits);
  const value = raw << below;
  const mask = ((1n << BigInt(bits)) - 1n) << below;
  for (let at = first; at <= last; at += 1) {
    const shift = BigInt((little ? at - first : last - at) * 8);
    putByte(writing, at, Number((value >> shift) & 0xffn), Number((mask >> shift) & 0xffn), path);
  }
};

const putByte = (writing: Writing, at: number, byte: number, mask: number, path: string): void => {
  const before = writing.bytes[at] ?? 0;
  const both = (writing.written[at] ?? 0) & mask;
  if ((before & both) !== (byte & both))
    throw new ValueError(path, 'what agrees with the other members of its union', 'other bytes');
  writing.bytes[at] = (before & ~mask) | (byte & mask);
  writing.written[at] = (writing.written[at] ?? 0) | mask;
};

const show = (value: unknown): string => {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  return String(value);
};
