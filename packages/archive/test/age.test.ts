import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { ageDecrypter, decryptedSource } from '../src/backup/age/decrypt.ts';
import { ageEncrypter } from '../src/backup/age/encrypt.ts';
import { type Header, parseHeader, toBase64 } from '../src/backup/age/header.ts';
import { generateIdentity, parseIdentities } from '../src/backup/age/keys.ts';
import { SEALED_BYTES, SEGMENT_BYTES } from '../src/backup/age/segments.ts';
import type { ByteSource } from '../src/backup/bytes.ts';
import { assembled, type Forged, forgery, headerText } from './age-forge.ts';

/** The age format: against Debian's `age` both ways, and against everything that the C2SP test vectors are about. */

const { identity: SECRET, recipient: RECIPIENT } = generateIdentity();
const OTHER = generateIdentity();
const IDENTITIES = parseIdentities(SECRET);
const MOST_BYTES = 16 * 1024 * 1024;
const SIZES = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 1_000_003];

const sealed = (plain: Buffer, step: number, recipients = [RECIPIENT]): Buffer => {
  const encrypter = ageEncrypter(recipients);
  const out = [encrypter.header];
  for (let at = 0; at < plain.length; at += step) out.push(...encrypter.push(plain.subarray(at, at + step)));
  return Buffer.concat([...out, ...encrypter.end()]);
};
const opened = (bytes: Buffer, step: number, identities = IDENTITIES): Buffer => {
  const decrypter = ageDecrypter(identities);
  const out: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += step) out.push(...decrypter.push(bytes.subarray(at, at + step)));
  return Buffer.concat([...out, ...decrypter.end()]);
};
/** In pieces of 50,000 bytes, which are no segments; and what was asked for. */
const sourceOf = (bytes: Buffer): ByteSource & { asked: [number, number][] } => {
  const asked: [number, number][] = [];
  return {
    asked,
    size: bytes.length,
    read: async function* (start, end) {
      asked.push([start, end]);
      for (let at = start; at < end; at += 50_000) yield bytes.subarray(at, Math.min(end, at + 50_000));
    },
  };
};
const collected = async (pieces: AsyncIterable<Buffer>): Promise<Buffer> => {
  const all: Buffer[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
};
const refusalOf = async (act: () => unknown): Promise<string> => {
  try {
    await act();
  } catch (fault) {
    if (fault instanceof AegisError) return `${fault.code} ${fault.details.reason ?? ''}`.trim();
    throw fault;
  }
  return 'accepted';
};
/** Streamed in two ways, and by ranges. */
const refusals = async (bytes: Buffer): Promise<string[]> => {
  const all = [
    await refusalOf(() => opened(bytes, 1000)),
    await refusalOf(() => opened(bytes, bytes.length || 1)),
    await refusalOf(async () => {
      const source = await decryptedSource(sourceOf(bytes), IDENTITIES);
      await collected(source.read(0, source.size));
    }),
  ];
  return [...new Set(all)];
};

test.each([1, 777, SEGMENT_BYTES, SEALED_BYTES, 5_000_000])('what is sealed is opened, %i bytes at a time', (step) => {
  for (const size of step === 1 ? [0, 1, 70_000] : SIZES) {
    const plain = randomBytes(size);
    expect(opened(sealed(plain, step), step).equals(plain)).toBe(true);
  }
});

test("Debian's age opens it with the identity of any recipient, and its files are opened here", () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-age-'));
  try {
    for (const [name, secret] of [
      ['own', SECRET],
      ['other', OTHER.identity],
    ] as const)
      writeFileSync(join(folder, name), `${secret}\n`);
    const age = (args: string[], input: Buffer) => execFileSync('age', args, { input, maxBuffer: MOST_BYTES });
    for (const size of SIZES) {
      const plain = randomBytes(size);
      const ours = sealed(plain, 100_000, [OTHER.recipient, RECIPIENT]);
      for (const name of ['own', 'other']) expect(age(['-d', '-i', join(folder, name)], ours).equals(plain)).toBe(true);
      const theirs = age(['-r', OTHER.recipient, '-r', RECIPIENT], plain);
      expect(opened(theirs, 10_000).equals(plain)).toBe(true);
    }
    const keyFile = execFileSync('age-keygen', [], { stdio: ['ignore', 'pipe', 'ignore'] }).toString();
    const made = parseIdentities(keyFile);
    const plain = randomBytes(100);
    expect(opened(sealed(plain, 100, [made[0]?.recipient ?? '']), 100, made)).toEqual(plain);
    expect(
      execFileSync('age-keygen', ['-y', join(folder, 'own')])
        .toString()
        .trim(),
    ).toBe(RECIPIENT);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('two files with the same content have no key, share or nonce in common', () => {
  const headers = Array.from({ length: 20 }, () => {
    const { header } = ageEncrypter([RECIPIENT]);
    const parsed = parseHeader(header);
    if (!parsed) throw new Error('not a whole header');
    return [parsed.stanzas[0]?.args[1], parsed.mac.toString('hex'), header.subarray(parsed.bytes).toString('hex')];
  });
  for (const column of [0, 1, 2]) expect(new Set(headers.map((header) => header[column])).size).toBe(20);
});

test('an encrypter that has ended takes nothing more', () => {
  const encrypter = ageEncrypter([RECIPIENT]);
  encrypter.end();
  expect(() => encrypter.push(Buffer.alloc(1))).toThrow('the encrypted stream has ended');
  expect(() => encrypter.end()).toThrow('the encrypted stream has ended');
  expect(() => ageEncrypter([])).toThrow(new RangeError('at least one recipient is needed'));
});

test('any part, from the segments that hold it and no others', async () => {
  const plain = randomBytes(5 * SEGMENT_BYTES + 321);
  const bytes = sealed(plain, 1_000_000);
  const header = parseHeader(bytes) as Header;
  const source = sourceOf(bytes);
  const part = await decryptedSource(source, IDENTITIES);
  expect(part.size).toBe(plain.length);
  const edges = [
    0,
    1,
    SEGMENT_BYTES - 1,
    SEGMENT_BYTES,
    SEGMENT_BYTES + 1,
    3 * SEGMENT_BYTES,
    plain.length - 1,
    plain.length,
  ];
  for (const start of edges)
    for (const end of edges.filter((one) => one >= start))
      expect((await collected(part.read(start, end))).equals(plain.subarray(start, end)), `${start}–${end}`).toBe(true);
  source.asked.length = 0;
  await collected(part.read(SEGMENT_BYTES + 5, SEGMENT_BYTES + 6));
  const from = header.bytes + 16 + SEALED_BYTES;
  expect(source.asked).toEqual([[from, from + SEALED_BYTES]]);
  expect(() => part.read(0, plain.length + 1)).toThrow(RangeError);
});

test('the sizes that a source proves', async () => {
  for (const size of SIZES) {
    const part = await decryptedSource(sourceOf(sealed(Buffer.alloc(size), 1_000_000)), IDENTITIES);
    expect([part.size, (await collected(part.read(0, size))).length]).toEqual([size, size]);
  }
});

const PLAIN = randomBytes(2 * SEGMENT_BYTES + 100);
const made = (alter: (forged: Forged) => void, plain = PLAIN): Buffer => {
  const forged = forgery(RECIPIENT, plain);
  alter(forged);
  return assembled(forged);
};
const withHeader = (alter: (header: string, forged: Forged) => string): Buffer => {
  const forged = forgery(RECIPIENT, PLAIN);
  return assembled(forged, alter(headerText(forged), forged));
};
const grease = { args: ['grease-xyz', '!~', 'a'], body: Buffer.alloc(100, 7) };
const STANZA = /-> X25519 (\S+)\n(\S+)\n/;

test.each<[string, Buffer]>([
  ['as it is', made(() => undefined)],
  [
    'stanzas of unknown kinds before and behind',
    made(({ stanzas }) => stanzas.splice(0, 1, grease, ...stanzas, grease)),
  ],
  [
    'a body of a whole line, and an empty one',
    made(({ stanzas }) =>
      stanzas.push({ args: ['x'], body: Buffer.alloc(48) }, { args: ['y'], body: Buffer.alloc(0) }),
    ),
  ],
  ['another recipient first', made((forged) => forged.stanzas.unshift(...forgery(OTHER.recipient, PLAIN).stanzas))],
])('opens %s', (_, bytes) => {
  expect(opened(bytes, 30_000).equals(PLAIN)).toBe(true);
});

const lowOrder = (share: Buffer) => ({ args: ['X25519', toBase64(share)], body: Buffer.alloc(32) });
test.each<[string, string, Buffer]>([
  ['nothing', 'backups.bad_archive age_truncated', Buffer.alloc(0)],
  ['something else', 'backups.bad_archive age_header', Buffer.from('(\xb5/\xfd and what follows', 'latin1')],
  ['another version', 'backups.bad_archive age_header', withHeader((text) => text.replace('/v1\n', '/v2\n'))],
  ['CRLF', 'backups.bad_archive age_header', withHeader((text) => text.replaceAll('\n', '\r\n'))],
  ['no stanza', 'backups.bad_archive age_header', withHeader((text) => text.replace(STANZA, ''))],
  [
    'a stanza without arguments',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace('---', '-> \n\n---')),
  ],
  ['an empty argument', 'backups.bad_archive age_header', withHeader((text) => text.replace('---', '-> a  b\n\n---'))],
  [
    'padded base64',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace(STANZA, '-> X25519 $1\n$2=\n')),
  ],
  [
    'base64 that is not canonical',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace('---', '-> x\nAB\n---')),
  ],
  [
    'a body without its last line',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace('---', `-> x\n${'A'.repeat(64)}\n---`)),
  ],
  [
    'a line of 65',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace('---', `-> x\n${'A'.repeat(65)}\n\n---`)),
  ],
  [
    'a long header',
    'backups.bad_archive age_header',
    withHeader((text) => text.replace('---', `-> ${'x'.repeat(70_000)}\n\n---`)),
  ],
  ['a space behind the MAC', 'backups.bad_archive age_header', withHeader((text) => text.replace(/\n$/, ' \n'))],
  ['a short MAC', 'backups.bad_archive age_header', withHeader((text) => text.replace(/..\n$/, '\n'))],
  ['another MAC', 'backups.bad_archive age_mac', withHeader((text) => text.replace(/--- (.{5}).{5}/, '--- $1AAAAA'))],
  [
    'a stanza more than the MAC is over',
    'backups.bad_archive age_mac',
    withHeader((text) => text.replace('---', '-> x\n\n---')),
  ],
  [
    'an argument more',
    'backups.bad_archive age_stanza',
    withHeader((text) => text.replace(STANZA, '-> X25519 $1 more\n$2\n')),
  ],
  [
    'a short share',
    'backups.bad_archive age_stanza',
    made(({ stanzas }) => stanzas.unshift({ args: ['X25519', toBase64(Buffer.alloc(31, 9))], body: Buffer.alloc(32) })),
  ],
  [
    'a long wrapped key',
    'backups.bad_archive age_stanza',
    made(({ stanzas }) => stanzas.unshift({ args: ['X25519', toBase64(Buffer.alloc(32, 9))], body: Buffer.alloc(33) })),
  ],
  [
    'a share of zeros',
    'backups.bad_archive age_stanza',
    made(({ stanzas }) => stanzas.unshift(lowOrder(Buffer.alloc(32)))),
  ],
  [
    'a share of low order',
    'backups.bad_archive age_stanza',
    made(({ stanzas }) =>
      stanzas.unshift(lowOrder(Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'))),
    ),
  ],
  [
    'a passphrase beside',
    'backups.bad_archive age_stanza',
    made(({ stanzas }) => stanzas.push({ args: ['scrypt', 'AAAAAAAAAAAAAAAAAAAAAA', '10'], body: Buffer.alloc(32) })),
  ],
  ['lower case', 'backups.wrong_identity', withHeader((text) => text.replace('X25519', 'x25519'))],
  ['another recipient', 'backups.wrong_identity', assembled(forgery(OTHER.recipient, PLAIN))],
  ['no nonce', 'backups.bad_archive age_truncated', Buffer.from(headerText(forgery(RECIPIENT, PLAIN)), 'latin1')],
  ['no segment', 'backups.bad_archive age_truncated', made((forged) => forged.segments.splice(0))],
  [
    'an empty last segment',
    'backups.bad_archive age_truncated',
    made(({ segments }) => {
      for (const one of segments) one.last = false;
      segments.splice(2, 1, { plain: Buffer.alloc(0), index: 2, last: true });
    }),
  ],
  ['no last segment', 'backups.bad_archive age_segment', made(({ segments }) => segments.splice(2))],
  [
    'a last segment in the middle',
    'backups.bad_archive age_segment',
    made(({ segments }) => {
      if (segments[1]) segments[1].last = true;
    }),
  ],
  [
    'segments in another order',
    'backups.bad_archive age_segment',
    made(({ segments }) => segments.splice(0, 2, ...segments.slice(0, 2).reverse())),
  ],
  ['a segment left out', 'backups.bad_archive age_segment', made(({ segments }) => segments.splice(1, 1))],
  [
    'a segment twice',
    'backups.bad_archive age_segment',
    made(({ segments }) => segments.splice(1, 0, ...segments.slice(0, 1))),
  ],
  [
    'a short segment in the middle',
    'backups.bad_archive age_segment',
    made(({ segments }) => {
      if (segments[1]) segments[1].plain = segments[1].plain.subarray(1);
    }),
  ],
  [
    'something behind it',
    'backups.bad_archive age_segment',
    Buffer.concat([made(() => undefined), Buffer.from('more')]),
  ],
])('refuses %s', async (_, refusal, bytes) => {
  expect(await refusals(bytes)).toEqual([refusal]);
});

test('a file that is cut off anywhere is refused, whatever came out before', async () => {
  const bytes = made(() => undefined, randomBytes(SEGMENT_BYTES + 50));
  const header = parseHeader(bytes)?.bytes ?? 0;
  const ends = [
    ...Array.from({ length: header + 18 }, (_, at) => at),
    ...[0, 1, 2, 17, 18].map((less) => header + 16 + SEALED_BYTES - less),
    bytes.length - 17,
    bytes.length - 1,
  ];
  for (const end of ends)
    for (const refusal of await refusals(bytes.subarray(0, end)))
      expect(refusal, `${end}`).toMatch(/^backups\.bad_archive age_(truncated|segment)$/);
});

test('a bit that flips anywhere is seen', async () => {
  const bytes = made(() => undefined, randomBytes(300));
  for (let at = 0; at < bytes.length; at++) {
    const altered = Buffer.from(bytes);
    altered[at] = (altered[at] ?? 0) ^ (1 << (at % 8));
    for (const refusal of await refusals(altered))
      expect(refusal, `byte ${at}`).toMatch(/^backups\.(bad_archive age_|wrong_identity)/);
  }
});
