import { AegisError } from '@aegis/protocol/errors';
import { describe, expect, test } from 'vitest';
import { boundaryOf, parseMultipart } from './multipart.ts';

const TYPE = 'multipart/form-data; boundary=----x1';
/** As curl sends it. */
const form = (...parts: [headers: string, content: string | Buffer][]): Buffer =>
  Buffer.concat([
    ...parts.flatMap(([headers, content]) => [
      Buffer.from(`------x1\r\n${headers}\r\n\r\n`),
      Buffer.from(content),
      Buffer.from('\r\n'),
    ]),
    Buffer.from('------x1--\r\n'),
  ]);
const text = (name: string) => `Content-Disposition: form-data; name="${name}"`;
const file = (name: string) => `${text(name)}; filename="a \\"b\\".zst"\r\nContent-Type: application/octet-stream`;
const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof AegisError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'taken';
};

test('files are bytes, the rest is text, both as they were', () => {
  const bytes = Buffer.from('\r\n--\r\n------x\0\xff\r\n', 'latin1');
  const parts = parseMultipart(
    form([file('bundle'), bytes], [text('signature'), 'ä\nb\n'], [text('empty'), '']),
    '----x1',
  );
  expect(parts).toEqual({ bundle: bytes, signature: 'ä\nb\n', empty: '' });
});

test.each([
  [TYPE, '----x1'],
  ['Multipart/Form-Data; charset=utf-8; boundary="a b"', 'a b'],
  ['application/json', undefined],
  ['multipart/form-data-ish; boundary=x', undefined],
  [undefined, undefined],
])('%s', (type, boundary) => {
  expect(boundaryOf(type)).toBe(boundary);
});
test('a form without a boundary', () => {
  expect(refusal(() => boundaryOf('multipart/form-data'))).toBe(
    'http.malformed: The form is malformed: its Content-Type names no boundary.',
  );
});

describe('what is refused', () => {
  const good = form([text('a'), '1']);
  test.each<[string, Buffer, string]>([
    ['nothing', Buffer.alloc(0), 'it does not begin with its boundary'],
    ['a preamble', Buffer.concat([Buffer.from('hello\r\n'), good]), 'it does not begin with its boundary'],
    ['an end that is missing', good.subarray(0, -6), 'it breaks off'],
    ['something after the end', Buffer.concat([good, Buffer.from('x')]), 'something follows its end'],
    ['the same part twice', form([text('a'), '1'], [text('a'), '2']), "it has the part 'a' twice"],
    ['headers without end', Buffer.from(`------x1\r\n${'x'.repeat(2000)}`), "a part's headers do not end"],
    [
      'an encoding',
      form([`${text('a')}\r\nContent-Transfer-Encoding: base64`, '']),
      "a part has the header 'Content-Transfer-Encoding', which is none of a form's",
    ],
    ['no name', form(['Content-Type: text/plain', '']), 'a part does not say its name in form-data'],
    ['two names', form([`${text('a')}\r\n${text('b')}`, '']), 'a part does not say its name in form-data'],
    [
      'an attachment',
      form(['Content-Disposition: attachment; name="a"', '']),
      'a part does not say its name in form-data',
    ],
    ['text that is none', form([text('a'), Buffer.of(0xff)]), "the part 'a' is not UTF-8"],
    ['text that is long', form([text('a'), 'x'.repeat(65_537)]), "the part 'a' is longer than text may be"],
    [
      'too many',
      form(...Array.from({ length: 33 }, (_, at): [string, string] => [text(`p${at}`), ''])),
      'it has more than 32 parts',
    ],
  ])('%s', (_, body, why) => {
    expect(refusal(() => parseMultipart(body, '----x1'))).toBe(`http.malformed: The form is malformed: ${why}.`);
  });
});
