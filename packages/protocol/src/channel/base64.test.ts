import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { isBase64 } from './base64.ts';

test('what an encoder makes, and nothing else', () => {
  for (let length = 0; length < 100; length++) expect(isBase64(randomBytes(length).toString('base64'))).toBe(true);
  for (const wrong of [
    'a',
    'ab',
    'abc',
    'a===',
    '=',
    '==',
    '====',
    'ab=c',
    'abcd=',
    'abcd==',
    'ab==abcd',
    'ab-_',
    'ab\n=',
    'abc=\n',
    'ab c',
    'äbc=',
  ])
    expect({ wrong, is: isBase64(wrong) }).toEqual({ wrong, is: false });
});

test('the same as the pattern of groups, over every short text of digits and padding', () => {
  const groups = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
  const texts = (length: number): string[] =>
    length === 0 ? [''] : texts(length - 1).flatMap((text) => [`${text}a`, `${text}=`, `${text}-`]);
  for (let length = 0; length <= 8; length++)
    for (const text of texts(length)) expect({ text, is: isBase64(text) }).toEqual({ text, is: groups.test(text) });
});
