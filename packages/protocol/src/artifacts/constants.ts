import { isIPv4, isIPv6 } from 'node:net';
import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';

/** Typed constants: what a manifest or `--set` says, as the bytes that stand in a program's `.rodata`.
 *  Integers are little-endian (both architectures are), addresses and ports in network order as packets carry them. */

export const CONSTANT_TYPES = [
  'u8',
  'u16',
  'u32',
  'u64',
  'i8',
  'i16',
  'i32',
  'i64',
  'bool',
  'ipv4',
  'ipv6',
  'mac',
  'port',
  'string',
  'bytes',
] as const;
export const ConstantType = z.enum(CONSTANT_TYPES);
export type ConstantType = z.infer<typeof ConstantType>;
/** 64-bit integers beyond 2^53 as decimal text; bytes as hex. */
export const ConstantValue = z.union([z.number(), z.boolean(), z.string().check(z.maxLength(4096))]);
export type ConstantValue = z.infer<typeof ConstantValue>;

const INTEGERS: Partial<Record<ConstantType, [bytes: number, signed: boolean]>> = {
  u8: [1, false],
  u16: [2, false],
  u32: [4, false],
  u64: [8, false],
  i8: [1, true],
  i16: [2, true],
  i32: [4, true],
  i64: [8, true],
};

const refused = (type: ConstantType, value: ConstantValue, wanted: string): AegisError =>
  new AegisError('artifacts.bad_constant', `'${String(value).slice(0, 80)}' is no ${type}: give ${wanted}.`);

/** @param size bytes of the variable, where it is known: shorter strings and bytes are filled up with zeros
 *  @throws AegisError artifacts.bad_constant */
export const encodeConstant = (type: ConstantType, value: ConstantValue, size?: number): Buffer => {
  const bytes = encode(type, value);
  if (size === undefined || bytes.length === size) return bytes;
  if ((type === 'string' || type === 'bytes') && bytes.length < size)
    return Buffer.concat([bytes, Buffer.alloc(size - bytes.length)]);
  throw new AegisError(
    'artifacts.bad_constant',
    `A ${type} of ${bytes.length} bytes does not fit the variable, which has ${size}.`,
  );
};

const encode = (type: ConstantType, value: ConstantValue): Buffer => {
  const integer = INTEGERS[type];
  if (integer) return encodeInteger(type, value, integer[0], integer[1]);
  const text = String(value);
  switch (type) {
    case 'bool':
      if (value === true || text === 'true') return Buffer.of(1);
      if (value === false || text === 'false') return Buffer.of(0);
      throw refused(type, value, 'true or false');
    case 'ipv4':
      if (!isIPv4(text)) throw refused(type, value, 'an address such as 192.0.2.9');
      return Buffer.from(text.split('.').map(Number));
    case 'ipv6':
      return encodeIpv6(value);
    case 'mac':
      if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text))
        throw refused(type, value, 'an address such as 02:00:5e:10:00:01');
      return Buffer.from(text.replaceAll(':', ''), 'hex');
    case 'port': {
      const bytes = encodeInteger(type, value, 2, false);
      return bytes.swap16();
    }
    case 'bytes':
      if (!/^([0-9a-f]{2})*$/i.test(text)) throw refused(type, value, 'pairs of hexadecimal digits');
      return Buffer.from(text, 'hex');
    default:
      if (text.includes('\0') || !text.isWellFormed()) throw refused(type, value, 'text without NUL, in Unicode');
      return Buffer.from(`${text}\0`, 'utf8');
  }
};

const encodeInteger = (type: ConstantType, value: ConstantValue, bytes: number, signed: boolean): Buffer => {
  const least = signed ? -(2n ** BigInt(bytes * 8 - 1)) : 0n;
  const most = signed ? 2n ** BigInt(bytes * 8 - 1) - 1n : 2n ** BigInt(bytes * 8) - 1n;
  const wanted = `a whole number from ${least} to ${most}`;
  const text = String(value);
  if (!/^-?(0x[0-9a-f]{1,16}|\d{1,20})$/i.test(text) || typeof value === 'boolean') throw refused(type, value, wanted);
  if (typeof value === 'number' && !Number.isSafeInteger(value))
    throw refused(type, value, `${wanted}, as text beyond 2^53`);
  const number = text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text);
  if (number < least || number > most) throw refused(type, value, wanted);
  const eight = Buffer.alloc(8);
  eight.writeBigUInt64LE(BigInt.asUintN(64, number));
  return eight.subarray(0, bytes);
};

const encodeIpv6 = (value: ConstantValue): Buffer => {
  const text = String(value);
  if (!isIPv6(text) || text.includes('%')) throw refused('ipv6', value, 'an address such as 2001:db8::9');
  const [head = '', tail] = withoutDots(text).split('::');
  const groups = (part: string): number[] => (part ? part.split(':').map((group) => Number.parseInt(group, 16)) : []);
  const left = groups(head);
  const right = groups(tail ?? '');
  const all = [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
  const bytes = Buffer.alloc(16);
  for (const [index, group] of all.entries()) bytes.writeUInt16BE(group, index * 2);
  return bytes;
};
/** `::ffff:192.0.2.9` with its last part in hexadecimal groups. */
const withoutDots = (text: string): string =>
  text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...[a, b, c, d]: string[]) => {
    const pair = (high = '0', low = '0') => ((Number(high) << 8) | Number(low)).toString(16);
    return `${pair(a, b)}:${pair(c, d)}`;
  });
