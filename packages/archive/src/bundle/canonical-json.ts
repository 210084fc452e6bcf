/** One text per value: RFC 8785 (JSON Canonicalization Scheme). Keys sorted by UTF-16 code units, no white space, numbers and strings
 *  as ECMAScript writes them. JSON.stringify alone keeps the order in which keys were put in, and writes integer-like keys first. */

const MAX_DEPTH = 32;

/** @throws TypeError for what JSON cannot hold: undefined, functions, bigints, NaN, lone surrogates, cycles (by their depth) */
export const canonicalJson = (value: unknown, depth = 0): string => {
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return canonicalNumber(value);
  if (typeof value === 'string') return canonicalString(value);
  if (typeof value !== 'object') throw new TypeError(`a ${typeof value} has no JSON form`);
  if (depth >= MAX_DEPTH) throw new TypeError(`it is nested more than ${MAX_DEPTH} levels deep`);
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item, depth + 1)).join(',')}]`;
  const members = Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, member]) => `${canonicalString(key)}:${canonicalJson(member, depth + 1)}`);
  return `{${members.join(',')}}`;
};

const canonicalNumber = (value: number): string => {
  if (!Number.isFinite(value)) throw new TypeError(`${value} has no JSON form`);
  return JSON.stringify(value);
};
const canonicalString = (value: string): string => {
  if (!value.isWellFormed()) throw new TypeError('a text has half of a surrogate pair');
  return JSON.stringify(value);
};
