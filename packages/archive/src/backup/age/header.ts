import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';
import { AegisError } from '@aegis/protocol/errors';

/** The text before an age file's payload: version line, one stanza for each recipient, MAC (c2sp.org/age, "Header"). */

export const FILE_KEY_BYTES = 16;
export const MAC_BYTES = 32;
/** Of ours too: what a reader holds before it knows anything. 32 recipients take 3.4 KiB. */
export const MAX_HEADER_BYTES = 64 * 1024;
const VERSION = 'age-encryption.org/v1';
const COLUMNS = 64;

export interface Stanza {
  /** The first says the recipient's type. */
  args: readonly string[];
  body: Buffer;
}
export interface Header {
  stanzas: readonly Stanza[];
  mac: Buffer;
  /** All of it, up to and including `---`: what the MAC is over. */
  covered: Buffer;
  /** Where the payload begins. */
  bytes: number;
}

export const damaged = (reason: string, sentence: string): AegisError =>
  new AegisError('backups.bad_archive', sentence, { details: { reason } });

export const hkdf = (key: Uint8Array, salt: Uint8Array, info: string): Buffer =>
  Buffer.from(hkdfSync('sha256', key, salt, info, 32));

export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64').replace(/=+$/, '');
/** Null for what is not canonical base64 without padding (RFC 4648, 3.5). */
export const fromBase64 = (text: string): Buffer | null => {
  const bytes = Buffer.from(text, 'base64');
  return toBase64(bytes) === text ? bytes : null;
};

const macOf = (fileKey: Uint8Array, covered: Uint8Array): Buffer =>
  createHmac('sha256', hkdf(fileKey, Buffer.alloc(0), 'header'))
    .update(covered)
    .digest();

export const writeHeader = (stanzas: readonly Stanza[], fileKey: Uint8Array): Buffer => {
  const texts = stanzas.map(({ args, body }) => {
    const base64 = toBase64(body);
    const lines = Array.from({ length: Math.floor(base64.length / COLUMNS) + 1 }, (_, at) =>
      base64.slice(at * COLUMNS, (at + 1) * COLUMNS),
    );
    return `-> ${args.join(' ')}\n${lines.join('\n')}\n`;
  });
  const covered = Buffer.from(`${VERSION}\n${texts.join('')}---`, 'latin1');
  return Buffer.concat([covered, Buffer.from(` ${toBase64(macOf(fileKey, covered))}\n`, 'latin1')]);
};

/** @throws AegisError backups.bad_archive */
export const checkMac = (header: Header, fileKey: Uint8Array): void => {
  if (!timingSafeEqual(macOf(fileKey, header.covered), header.mac))
    throw damaged('age_mac', 'The encrypted file was altered: the MAC of its header does not fit.');
};

/** Null while `bytes`, the file's beginning, does not hold all of the header.
 *  @throws AegisError backups.bad_archive */
export const parseHeader = (bytes: Buffer): Header | null => {
  const lines = headerLines(bytes);
  const refuse = () => badHeader('it is not in the form of version 1');
  const version = lines.next();
  if (version === null) return null;
  if (version.text !== VERSION)
    throw badHeader(
      version.text.startsWith('age-encryption.org/')
        ? 'its version is none that Aegis knows'
        : 'it does not begin as age files do',
    );
  const stanzas: Stanza[] = [];
  for (;;) {
    const line = lines.next();
    if (line === null) return null;
    if (line.text.startsWith('---')) {
      const mac = /^--- (.{43})$/.exec(line.text)?.[1];
      const decoded = mac === undefined ? null : fromBase64(mac);
      if (decoded?.length !== MAC_BYTES || stanzas.length === 0) throw refuse();
      return { stanzas, mac: decoded, covered: bytes.subarray(0, line.start + 3), bytes: line.end };
    }
    const args = /^-> ([\x21-\x7e]+(?: [\x21-\x7e]+)*)$/.exec(line.text)?.[1]?.split(' ');
    if (!args) throw refuse();
    const body = readBody(lines);
    if (body === null) return null;
    if (body === 'bad') throw refuse();
    stanzas.push({ args, body });
  }
};

interface Lines {
  next(): { text: string; start: number; end: number } | null;
}

const headerLines = (bytes: Buffer): Lines => {
  let at = 0;
  return {
    next: () => {
      const feed = bytes.indexOf(0x0a, at);
      if (feed === -1 || feed >= MAX_HEADER_BYTES) {
        if (bytes.length >= MAX_HEADER_BYTES) throw badHeader(`it is longer than ${MAX_HEADER_BYTES} bytes`);
        // Told early where it can be: a file of another kind need not have any line.
        if (at === 0 && !VERSION.startsWith(bytes.toString('latin1', 0, Math.min(bytes.length, 19)).slice(0, 19)))
          throw badHeader('it does not begin as age files do');
        return null;
      }
      const line = { text: bytes.toString('latin1', at, feed), start: at, end: feed + 1 };
      at = feed + 1;
      return line;
    },
  };
};

const readBody = (lines: Lines): Buffer | null | 'bad' => {
  let base64 = '';
  for (;;) {
    const line = lines.next();
    if (line === null) return null;
    if (line.text.length > COLUMNS) return 'bad';
    base64 += line.text;
    if (line.text.length < COLUMNS) return fromBase64(base64) ?? 'bad';
  }
};

const badHeader = (fault: string) => damaged('age_header', `This cannot be decrypted: ${fault}.`);
