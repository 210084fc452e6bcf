import { expect, test } from 'vitest';
import { type ConstantType, type ConstantValue, encodeConstant } from './constants.ts';

const hex = (type: ConstantType, value: ConstantValue, size?: number) =>
  encodeConstant(type, value, size).toString('hex');

test('integers are little-endian, addresses and ports in network order', () => {
  expect(hex('u8', 255)).toBe('ff');
  expect(hex('u16', 0x1234)).toBe('3412');
  expect(hex('i32', -2)).toBe('feffffff');
  expect(hex('u64', '18446744073709551615')).toBe('ffffffffffffffff');
  expect(hex('i64', '-9223372036854775808')).toBe('0000000000000080');
  expect(hex('u32', '0x10')).toBe('10000000');
  expect(hex('bool', 'true')).toBe('01');
  expect(hex('ipv4', '192.0.2.9')).toBe('c0000209');
  expect(hex('ipv6', '2001:db8::9')).toBe('20010db8000000000000000000000009');
  expect(hex('ipv6', '::')).toBe('00'.repeat(16));
  expect(hex('ipv6', '::ffff:192.0.2.9')).toBe('00000000000000000000ffffc0000209');
  expect(hex('ipv6', '1:2:3:4:5:6:7:8')).toBe('00010002000300040005000600070008');
  expect(hex('mac', '02:00:5e:10:00:01')).toBe('02005e100001');
  expect(hex('port', 443)).toBe('01bb');
  expect(hex('string', 'ab', 4)).toBe('61620000');
  expect(hex('bytes', '0aff', 4)).toBe('0aff0000');
});

test.each<[ConstantType, ConstantValue, string]>([
  ['u8', 256, "'256' is no u8: give a whole number from 0 to 255."],
  ['u8', -1, "'-1' is no u8: give a whole number from 0 to 255."],
  ['i8', 128, "'128' is no i8: give a whole number from -128 to 127."],
  ['u32', 1.5, "'1.5' is no u32: give a whole number from 0 to 4294967295."],
  ['u32', true, "'true' is no u32: give a whole number from 0 to 4294967295."],
  [
    'u64',
    2 ** 60,
    "'1152921504606847000' is no u64: give a whole number from 0 to 18446744073709551615, as text beyond 2^53.",
  ],
  ['bool', 1, "'1' is no bool: give true or false."],
  ['ipv4', '192.0.2', "'192.0.2' is no ipv4: give an address such as 192.0.2.9."],
  ['ipv6', 'fe80::1%eth0', "'fe80::1%eth0' is no ipv6: give an address such as 2001:db8::9."],
  ['mac', '02-00', "'02-00' is no mac: give an address such as 02:00:5e:10:00:01."],
  ['bytes', 'abc', "'abc' is no bytes: give pairs of hexadecimal digits."],
])('%s refuses %s', (type, value, sentence) => {
  expect(() => encodeConstant(type, value)).toThrow(sentence);
});

test('what does not fit its variable is refused', () => {
  expect(() => encodeConstant('u32', 1, 8)).toThrow('A u32 of 4 bytes does not fit the variable, which has 8.');
  expect(() => encodeConstant('string', 'abcd', 4)).toThrow(
    'A string of 5 bytes does not fit the variable, which has 4.',
  );
});
