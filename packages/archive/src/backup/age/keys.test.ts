import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { decodeBech32, encodeBech32 } from './bech32.ts';
import { generateIdentity, parseIdentities, parseRecipient } from './keys.ts';

/** The pair that the specification shows (c2sp.org/age). */
const IDENTITY = 'AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX';
const RECIPIENT = 'age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj';

const refusalOf = (act: () => unknown): [code: string, message: string] => {
  try {
    act();
  } catch (fault) {
    if (fault instanceof AegisError) return [fault.code, fault.message];
    throw fault;
  }
  throw new Error('nothing was refused');
};

test("the specification's identity has the specification's recipient", () => {
  const [identity] = parseIdentities(IDENTITY);
  expect(identity?.recipient).toBe(RECIPIENT);
  expect(parseRecipient(RECIPIENT).publicRaw).toEqual(identity?.publicRaw);
});

test('an identity file as age-keygen writes it, and one with several and Windows line ends', () => {
  const made = generateIdentity();
  const text = `# created: 2026-01-01T00:00:00Z\n# public key: ${made.recipient}\n${made.identity}\n`;
  expect(parseIdentities(text).map(({ recipient }) => recipient)).toEqual([made.recipient]);
  expect(parseIdentities(`${made.identity}\r\n\r\n  ${IDENTITY}\r\n`).map(({ recipient }) => recipient)).toEqual([
    made.recipient,
    RECIPIENT,
  ]);
});

const altered = `${RECIPIENT.slice(0, 20)}q${RECIPIENT.slice(21)}`;
test.each([
  ['empty', '', "'' is not an age recipient: it is too short. Copy it whole (age1…)."],
  [
    'a mistyped character',
    altered,
    "'age1zvkyg2lq…' is not an age recipient: its checksum is wrong: a character is missing or mistyped. Copy it whole (age1…).",
  ],
  [
    'cut off',
    RECIPIENT.slice(0, -1),
    "'age1zvkyg2lq…' is not an age recipient: its checksum is wrong: a character is missing or mistyped. Copy it whole (age1…).",
  ],
  [
    'mixed case',
    `A${RECIPIENT.slice(1)}`,
    "'Age1zvkyg2lq…' is not an age recipient: it mixes upper and lower case. Copy it whole (age1…).",
  ],
  [
    'upper case',
    RECIPIENT.toUpperCase(),
    "'AGE1ZVKYG2LQ…' is not an age recipient: those are age1 and 58 lower-case characters.",
  ],
  [
    'a space behind it',
    `${RECIPIENT} `,
    "'age1zvkyg2lq…' is not an age recipient: it has characters that no key has. Copy it whole (age1…).",
  ],
  [
    'an identity',
    IDENTITY,
    'This is a secret identity, not a recipient: give its public half (age1…), which `age-keygen -y` prints.',
  ],
  [
    'an SSH key',
    'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN',
    "'ssh-ed25519 …' is a recipient of a kind that Aegis does not encrypt to: only X25519 ones (age1 and 58 characters).",
  ],
  [
    'another prefix',
    encodeBech32('bc', Buffer.alloc(32, 9)),
    "'bc1pyysjzgfp…' is not an age recipient: those are age1 and 58 lower-case characters.",
  ],
  [
    '31 bytes',
    encodeBech32('age', Buffer.alloc(31, 9)),
    "'age1pyysjzgf…' is not an age recipient: those are age1 and 58 lower-case characters.",
  ],
  [
    'a key of low order',
    encodeBech32('age', Buffer.alloc(32)),
    "'age1qqqqqqqq…' is no real key: anyone could read what is encrypted to it.",
  ],
])('refuses a recipient: %s', (_, text, sentence) => {
  expect(refusalOf(() => parseRecipient(text))).toEqual(['backups.bad_recipient', sentence]);
});

test.each([
  ['nothing', '# only a comment\n\n', 'The identity file has no identity: a line AGE-SECRET-KEY-1… is needed.'],
  ['lower case', IDENTITY.toLowerCase(), 'Line 1 of the identity file is not an age identity (AGE-SECRET-KEY-1…).'],
  [
    'cut off',
    `#\n${IDENTITY.slice(0, -2)}`,
    'Line 2 of the identity file is not an age identity: its checksum is wrong: a character is missing or mistyped.',
  ],
  [
    'a recipient',
    RECIPIENT,
    'Line 1 of the identity file is a recipient, which opens nothing: the identity is needed (AGE-SECRET-KEY-1…).',
  ],
  [
    'a plugin',
    'AGE-PLUGIN-YUBIKEY-1QQ',
    'Line 1 of the identity file has an identity of a kind that Aegis does not know: only X25519 ones (AGE-SECRET-KEY-1…).',
  ],
  [
    'one that is encrypted',
    'age-encryption.org/v1\n-> scrypt',
    'The identity file is itself encrypted: decrypt it first (`age -d`).',
  ],
  [
    'an SSH key',
    '-----BEGIN OPENSSH PRIVATE KEY-----\n',
    'This is an SSH or PEM key: Aegis opens backups with age identities only (AGE-SECRET-KEY-1…, made by `age-keygen`).',
  ],
])('refuses an identity file: %s', (_, text, sentence) => {
  expect(refusalOf(() => parseIdentities(text))).toEqual(['backups.bad_identity', sentence]);
});

test('no part of a secret is in a refusal, however it is damaged', () => {
  const secret = generateIdentity().identity;
  for (let at = 0; at < secret.length; at++) {
    const damaged = `${secret.slice(0, at)}${secret[at] === 'Q' ? 'P' : 'Q'}${secret.slice(at + 1)}`;
    const [, asIdentity] = refusalOf(() => parseIdentities(damaged));
    expect(asIdentity).not.toContain(damaged.slice(-20));
    const [, asRecipient] = refusalOf(() => parseRecipient(damaged));
    for (let from = 16; from < damaged.length - 4; from++)
      expect(asRecipient).not.toContain(damaged.slice(from, from + 4));
  }
});

test.each(['A12UEL5L', 'a12uel5l', 'abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw', '?1ezyfcl'])(
  'BIP 173 has %s',
  (text) => {
    const parts = decodeBech32(text);
    expect('bytes' in parts && encodeBech32(parts.prefix, parts.bytes)).toBe(text.toLowerCase());
  },
);
test.each(['10a06t8', '1qzzfhee', 'pzry9x0s0muk', '1pzry9x0s0muk', 'x1b4n0q5v', 'li1dgmt3', 'A1G7SGD8'])(
  'BIP 173 has not %s',
  (text) => {
    expect(decodeBech32(text)).toHaveProperty('fault');
  },
);
