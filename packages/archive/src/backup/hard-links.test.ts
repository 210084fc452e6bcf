import { expect, test } from 'vitest';
import { hardLinks, type Inode } from './hard-links.ts';

const inode = (number: number, more: Partial<Inode> = {}): Inode => ({
  device: 1,
  inodeHigh: 0,
  inodeLow: number,
  size: 5,
  mtimeSec: 1,
  mtimeNsec: 2,
  ...more,
});
const found = (path: Buffer | 'changed' | null): string | null => path?.toString() ?? null;

test('a hundred thousand inodes, each with its path', () => {
  const links = hardLinks();
  const count = 100_000;
  const directory = (at: number): Buffer => Buffer.from(at % 2 === 0 ? '' : `dir/${Math.floor(at / 10)}`);
  const wrong: number[] = [];
  for (let at = 0; at < count; at++) {
    const one = inode(Math.imul(at, 2_654_435_761) >>> 0, { inodeHigh: at % 3, device: 2 ** 33 + (at % 5) });
    if (links.first(one) !== null || !links.remember(one, directory(at), Buffer.from(`n${at}`))) wrong.push(at);
  }
  for (let at = 0; at < count; at++) {
    const one = inode(Math.imul(at, 2_654_435_761) >>> 0, { inodeHigh: at % 3, device: 2 ** 33 + (at % 5) });
    const path = at % 2 === 0 ? `n${at}` : `${directory(at)}/n${at}`;
    if (found(links.first(one)) !== path) wrong.push(at);
  }
  expect(wrong).toEqual([]);
  expect(links.first(inode(1, { device: 99 }))).toBeNull();
});

test('an inode that became another file is not the same', () => {
  const links = hardLinks();
  links.remember(inode(7), Buffer.from('a'), Buffer.from('b'));
  expect(found(links.first(inode(7)))).toBe('a/b');
  expect(links.first(inode(7, { size: 6 }))).toBe('changed');
  expect(links.first(inode(7, { mtimeNsec: 3 }))).toBe('changed');
  links.remember(inode(7, { size: 6 }), Buffer.from('a'), Buffer.from('c'));
  expect(found(links.first(inode(7, { size: 6 })))).toBe('a/c');
});

test('there is an end to what is remembered', () => {
  const links = hardLinks(2);
  const remember = (at: number): boolean => links.remember(inode(at), Buffer.from('d'), Buffer.from('n'));
  expect([remember(1), remember(2), remember(3)]).toEqual([true, true, false]);
  expect([found(links.first(inode(2))), links.first(inode(3))]).toEqual(['d/n', null]);
});
