import { expect, test } from 'vitest';
import { parseReference } from './versions.ts';

test.each([
  ['block-icmp', { name: 'block-icmp', version: null }],
  ['block-icmp@1.0.0-rc.1+x', { name: 'block-icmp', version: '1.0.0-rc.1+x' }],
  ['01890000-0000-7000-8000-000000000000', { id: '01890000-0000-7000-8000-000000000000' }],
])('%s', (text, reference) => {
  expect(parseReference(text)).toEqual(reference);
});
test.each(['', '@1.0.0', 'Block', 'x@', 'x@1', 'x@latest', 'x y'])('%j names no artifact', (text) => {
  expect(() => parseReference(text)).toThrow(/^There is no artifact '/);
});
