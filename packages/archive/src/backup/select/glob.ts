import { type Rune, runeAt } from './runes.ts';

/** One component of a pattern against one name, as Go's filepath.Match does it (and so restic): `*` any bytes, `?` one character, `[a-z]`, `[^a-z]`,
 *  backslash. Both are strings of bytes. Not a regular expression: `*` may end within a character, and each stretch between two `*` is taken where it
 *  fits first, which shows with names that are not UTF-8. */

type Token =
  | { kind: 'byte'; byte: number }
  | { kind: 'any' }
  | { kind: 'class'; negated: boolean; ranges: readonly (readonly [low: number, high: number])[] };

interface Chunk {
  /** A `*` stands before it. */
  star: boolean;
  tokens: readonly Token[];
}

export type Glob = (name: string) => boolean;

/** Null for a malformed one, which Go calls ErrBadPattern. */
export const compileGlob = (pattern: string): Glob | null => {
  const chunks: { star: boolean; tokens: Token[] }[] = [{ star: false, tokens: [] }];
  for (let at = 0; at < pattern.length; ) {
    if (pattern[at] === '*') {
      const last = chunks.at(-1);
      if (last?.star && last.tokens.length === 0) at += 1;
      else {
        chunks.push({ star: true, tokens: [] });
        at += 1;
      }
      continue;
    }
    const read = readToken(pattern, at);
    if (!read) return null;
    chunks.at(-1)?.tokens.push(read.token);
    at = read.end;
  }
  return (name) => matches(chunks, name);
};

const readToken = (pattern: string, at: number): { token: Token; end: number } | null => {
  const char = pattern[at];
  if (char === '?') return { token: { kind: 'any' }, end: at + 1 };
  if (char === '[') return readClass(pattern, at + 1);
  const from = char === '\\' ? at + 1 : at;
  return from < pattern.length ? { token: { kind: 'byte', byte: pattern.charCodeAt(from) }, end: from + 1 } : null;
};

const readClass = (pattern: string, from: number): { token: Token; end: number } | null => {
  const negated = pattern[from] === '^';
  let at = negated ? from + 1 : from;
  const ranges: [number, number][] = [];
  while (pattern[at] !== ']' || ranges.length === 0) {
    const low = readMember(pattern, at);
    if (!low) return null;
    at += low.bytes;
    const high = pattern[at] === '-' ? readMember(pattern, at + 1) : low;
    if (!high) return null;
    if (high !== low) at += 1 + high.bytes;
    ranges.push([low.code, high.code]);
  }
  return { token: { kind: 'class', negated, ranges }, end: at + 1 };
};

/** With its backslash, where it has one. Something must follow it, if only the bracket. */
const readMember = (pattern: string, at: number): Rune | null => {
  const char = pattern[at];
  if (char === undefined || char === '-' || char === ']') return null;
  const escaped = char === '\\' ? 1 : 0;
  if (at + escaped >= pattern.length) return null;
  const { code, bytes } = runeAt(pattern, at + escaped);
  const invalid = bytes === 1 && code > 0x7f;
  const end = at + escaped + bytes;
  return invalid || end >= pattern.length ? null : { code, bytes: escaped + bytes };
};

const matches = (chunks: readonly Chunk[], name: string): boolean => {
  let at = 0;
  for (const [index, { star, tokens }] of chunks.entries()) {
    const last = index === chunks.length - 1;
    if (last && star && tokens.length === 0) return true;
    let end = matchTokens(tokens, name, at);
    // Where a star stands before, the chunk may begin at any later byte; the last one must reach the name's end.
    for (let from = at + 1; star && (end === -1 || (last && end < name.length)) && from <= name.length; from++)
      end = matchTokens(tokens, name, from);
    if (end === -1 || (last && end < name.length)) return false;
    at = end;
  }
  return true;
};

/** Where the match ends that begins at `from`; -1 if there is none. */
const matchTokens = (tokens: readonly Token[], name: string, from: number): number => {
  let at = from;
  for (const token of tokens) {
    if (at >= name.length) return -1;
    if (token.kind === 'byte') {
      if (name.charCodeAt(at) !== token.byte) return -1;
      at += 1;
      continue;
    }
    const { code, bytes } = runeAt(name, at);
    if (token.kind === 'class' && token.ranges.some(([low, high]) => low <= code && code <= high) === token.negated)
      return -1;
    at += bytes;
  }
  return at;
};
