import { expect, test } from 'vitest';
import { referenceOf } from './reference.ts';

test('name and version', () => {
  expect(referenceOf('block-icmp')).toEqual({ name: 'block-icmp', version: undefined });
  expect(referenceOf('block-icmp@1.0.0-rc.1+x')).toEqual({ name: 'block-icmp', version: '1.0.0-rc.1+x' });
});
