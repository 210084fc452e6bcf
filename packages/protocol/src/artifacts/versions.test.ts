import { expect, test } from 'vitest';
import { compareVersions, newestOf } from './versions.ts';

test('the order of semver.org', () => {
  const ordered = [
    '0.9.9',
    '1.0.0-0',
    '1.0.0-9',
    '1.0.0-10',
    '1.0.0-alpha',
    '1.0.0-alpha.1',
    '1.0.0-alpha.beta',
    '1.0.0-beta',
    '1.0.0-beta.2',
    '1.0.0-beta.11',
    '1.0.0-rc.1',
    '1.0.0',
    '1.0.0+a',
    '1.0.0+b',
    '1.0.1',
    '1.2.0',
    '1.10.0',
    '2.0.0-x-y.--',
    '2.0.0',
    '10.0.0',
    '18446744073709551616.0.0',
  ];
  expect(ordered.toReversed().toSorted(compareVersions)).toEqual(ordered);
  expect(ordered.toSorted((a, b) => compareVersions(b, a))).toEqual(ordered.toReversed());
});

test('a prerelease is the newest only where there is nothing else', () => {
  const of = (...versions: string[]) => newestOf(versions.map((version) => ({ version })))?.version;
  expect([of('1.0.0', '2.0.0-rc.1', '1.0.1'), of('2.0.0-rc.1', '2.0.0-rc.2'), of()]).toEqual([
    '1.0.1',
    '2.0.0-rc.2',
    undefined,
  ]);
});
