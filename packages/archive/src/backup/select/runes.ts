/** UTF-8 within strings of bytes (one char per byte, as 'latin1' makes them), read as Go's strings do: an invalid byte counts as U+FFFD of one byte. */

export const REPLACEMENT = 0xfffd;

export interface Rune {
  code: number;
  bytes: number;
}

const INVALID: Rune = { code: REPLACEMENT, bytes: 1 };
/** By the first byte of a sequence: its length, the bits that it gives, the least code point that needs so many. */
const LEADS = [
  { from: 0xc2, to: 0xdf, bytes: 2, mask: 0x1f, least: 0x80 },
  { from: 0xe0, to: 0xef, bytes: 3, mask: 0x0f, least: 0x800 },
  { from: 0xf0, to: 0xf4, bytes: 4, mask: 0x07, least: 0x10000 },
];

/** `at` is within the text. */
export const runeAt = (text: string, at: number): Rune => {
  const first = text.charCodeAt(at);
  if (first < 0x80) return { code: first, bytes: 1 };
  const lead = LEADS.find(({ from, to }) => first >= from && first <= to);
  if (!lead) return INVALID;
  let code = first & lead.mask;
  for (let next = at + 1; next < at + lead.bytes; next++) {
    const byte = text.charCodeAt(next); // NaN behind the end
    if (!(byte >= 0x80 && byte <= 0xbf)) return INVALID;
    code = (code << 6) | (byte & 0x3f);
  }
  const valid = code >= lead.least && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return valid ? { code, bytes: lead.bytes } : INVALID;
};

/** As Go's strings.ToLower: code point by code point, invalid bytes become U+FFFD. */
export const lowerCase = (text: string): string => {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII, whatever it is
  if (/^[\x00-\x7f]*$/.test(text)) return text.toLowerCase();
  let lower = '';
  for (let at = 0; at < text.length; ) {
    const { code, bytes } = runeAt(text, at);
    lower += lowerOf(code);
    at += bytes;
  }
  return Buffer.from(lower, 'utf8').toString('latin1');
};

/** U+0130 is the one code point whose lower case is two in JavaScript, and one for Go. */
const lowerOf = (code: number): string => (code === 0x130 ? 'i' : String.fromCodePoint(code).toLowerCase());
