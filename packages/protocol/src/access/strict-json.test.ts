import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseStrictJson } from './strict-json.ts';

test('reads whatever JSON.stringify writes, as JSON.parse would', () => {
  const unpoisoned = fc.jsonValue({ maxDepth: 6 }).filter((value) => !JSON.stringify(value).includes('__proto__'));
  fc.assert(
    fc.property(unpoisoned, fc.constantFrom(0, 2), (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      expect(parseStrictJson(text)).toEqual(JSON.parse(text));
    }),
  );
});

test.each([
  ['{"a":1,"a":2}', 'JSON has the key "a" twice'],
  ['{"a":1,"\\u0061":2}', 'JSON has the key "a" twice'],
  ['[{"x":{"k":[],"k":0}}]', 'JSON has the key "k" twice'],
  ['{"__proto__":{}}', 'JSON may not have a key "__proto__"'],
  [`${'['.repeat(33)}${']'.repeat(33)}`, 'JSON is nested more than 32 levels deep'],
])('refuses %s', (text, message) => {
  expect(() => parseStrictJson(text)).toThrow(new SyntaxError(message));
});

test('a key may stand in sibling objects, and a value may look like a key', () => {
  expect(parseStrictJson('{"a":["b","b",{"a":"a"},{"a":"a"}],"b":"a"}')).toEqual({
    a: ['b', 'b', { a: 'a' }, { a: 'a' }],
    b: 'a',
  });
});
