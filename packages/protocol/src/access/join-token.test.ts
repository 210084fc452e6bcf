import { expect, test } from 'vitest';
import { formatJoinToken, parseJoinToken } from './join-token.ts';

const token = { id: 'k1', secret: 's'.repeat(43), rootFingerprint: 'a'.repeat(64) };

test('text and token are the same thing', () => {
  for (const one of [token, { ...token, tlsFingerprint: 'b'.repeat(64) }])
    expect(parseJoinToken(` ${formatJoinToken(one)}\n`)).toEqual(one);
});

test.each(['', 'aegis1', 'aegis2.k1.x.y', formatJoinToken(token).slice(0, -1), `${formatJoinToken(token)}.zz`])(
  'refuses %j and never repeats it',
  (text) => {
    expect(() => parseJoinToken(text)).toThrow(
      "That is not a join token (aegis1.<id>.<secret>.<root fingerprint>). Make one with 'aegis server join-token'.",
    );
  },
);
