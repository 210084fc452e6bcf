import { expect, test } from 'vitest';
import { compareVersions, referenceOf } from './reference.ts';

test('versions in the order of semver.org', () => {
  const order = [
    '1.0.0-alpha',
    '1.0.0-alpha.1',
    '1.0.0-alpha.beta',
    '1.0.0-beta',
    '1.0.0-beta.2',
    '1.0.0-beta.11',
    '1.0.0-rc.1',
    '1.0.0',
    '1.2.0',
    '1.10.0',
    '2.0.0',
  ];
  expect([...order].reverse().sort(compareVersions)).toEqual(order);
  expect(compareVersions('1.0.0+a', '1.0.0+b')).toBe(0);
});

test('name and version', () => {
  expect(referenceOf('block-icmp')).toEqual({ name: 'block-icmp', version: undefined });
  expect(referenceOf('block-icmp@1.0.0-rc.1+x')).toEqual({ name: 'block-icmp', version: '1.0.0-rc.1+x' });
});
