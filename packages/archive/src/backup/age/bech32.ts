/** Bech32 (BIP 173) without its limit on length, as age writes its keys. */

const CHARSET = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l';
const VALUES: ReadonlyMap<string, number> = new Map([...CHARSET].map((char, value) => [char, value]));
const GENERATOR = [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3];
const CHECKSUM_CHARS = 6;

const polymod = (values: Iterable<number>): number => {
  let sum = 1;
  for (const value of values) {
    const top = sum >>> 25;
    sum = ((sum & 0x1ffffff) << 5) ^ value;
    for (const [bit, term] of GENERATOR.entries()) if ((top >>> bit) & 1) sum ^= term;
  }
  return sum >>> 0;
};

const expanded = (prefix: string): number[] => {
  const codes = [...prefix].map((char) => char.charCodeAt(0));
  return [...codes.map((code) => code >> 5), 0, ...codes.map((code) => code & 31)];
};

/** Bits of `from` wide numbers as `to` wide ones; null where padding is not what it must be. */
const regroup = (values: Iterable<number>, from: number, to: number, pad: boolean): number[] | null => {
  const out: number[] = [];
  let held = 0;
  let bits = 0;
  for (const value of values) {
    held = ((held << from) | value) & 0xfff;
    bits += from;
    while (bits >= to) {
      bits -= to;
      out.push((held >> bits) & ((1 << to) - 1));
    }
  }
  const rest = held & ((1 << bits) - 1);
  if (pad) return bits > 0 ? [...out, (rest << (to - bits)) & ((1 << to) - 1)] : out;
  return bits >= from || rest !== 0 ? null : out;
};

/** Lower case; `prefix` too must be. */
export const encodeBech32 = (prefix: string, bytes: Uint8Array): string => {
  const data = regroup(bytes, 8, 5, true) ?? [];
  const sum = polymod([...expanded(prefix), ...data, 0, 0, 0, 0, 0, 0]) ^ 1;
  const check = Array.from({ length: CHECKSUM_CHARS }, (_, at) => (sum >>> (5 * (5 - at))) & 31);
  return `${prefix}1${[...data, ...check].map((value) => CHARSET[value]).join('')}`;
};

/** What is wrong with the text, for a sentence; or its parts, the prefix in lower case. */
export const decodeBech32 = (text: string): { prefix: string; bytes: Buffer } | { fault: string } => {
  const lower = text.toLowerCase();
  if (text !== lower && text !== text.toUpperCase()) return { fault: 'it mixes upper and lower case' };
  const split = lower.lastIndexOf('1');
  if (split < 1 || lower.length - split - 1 < CHECKSUM_CHARS) return { fault: 'it is too short' };
  const prefix = lower.slice(0, split);
  if (!/^[\x21-\x7e]+$/.test(prefix)) return { fault: 'it has characters that no key has' };
  const values: number[] = [];
  for (const char of lower.slice(split + 1)) {
    const value = VALUES.get(char);
    if (value === undefined) return { fault: 'it has characters that no key has' };
    values.push(value);
  }
  if (polymod([...expanded(prefix), ...values]) !== 1)
    return { fault: 'its checksum is wrong: a character is missing or mistyped' };
  const bytes = regroup(values.slice(0, -CHECKSUM_CHARS), 5, 8, false);
  return bytes
    ? { prefix, bytes: Buffer.from(bytes) }
    : { fault: 'its last characters are not what an encoder writes' };
};
