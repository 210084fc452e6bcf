import { expect, test } from 'vitest';
import { canonicalJson } from './canonical-json.ts';

test('the example of RFC 8785, section 3.2.2 and 3.2.3', () => {
  const example = {
    numbers: [Number('333333333.33333329'), 1e30, 4.5, 2e-3, 0.000000000000000000000000001],
    string: '\u20ac$\u000f\u000aA\'\u0042\u0022\u005c\\"/',
    literals: [null, true, false],
  };
  expect(canonicalJson(example)).toBe(
    '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
  );
});

test('keys by UTF-16 code units, integer-like ones too', () => {
  const keys = ['\u20ac', '\r', '\ufb33', '1', '\ud83d\ude00', '\u0080', '\u00f6', '10', '9'];
  const text = canonicalJson(Object.fromEntries(keys.map((key) => [key, 0])));
  expect(text).toBe('{"\\r":0,"1":0,"10":0,"9":0,"\u0080":0,"ö":0,"€":0,"😀":0,"\ufb33":0}');
});

test('minus zero is zero', () => {
  expect(canonicalJson([-0])).toBe('[0]');
});

const cycle: unknown[] = [];
cycle.push(cycle);
test.each([
  ['undefined', { a: undefined }, 'a undefined has no JSON form'],
  ['a function', [() => 1], 'a function has no JSON form'],
  ['a bigint', 1n, 'a bigint has no JSON form'],
  ['NaN', Number.NaN, 'NaN has no JSON form'],
  ['infinity', [Number.NEGATIVE_INFINITY], '-Infinity has no JSON form'],
  ['half a pair', '\ud800', 'a text has half of a surrogate pair'],
  ['half a pair as a key', { '\udfff': 1 }, 'a text has half of a surrogate pair'],
  ['a cycle', cycle, 'it is nested more than 32 levels deep'],
])('refuses %s', (_, value, sentence) => {
  expect(() => canonicalJson(value)).toThrow(new TypeError(sentence));
});
