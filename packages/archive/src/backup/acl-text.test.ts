import { expect, test } from 'vitest';
import { aclText } from './acl-text.ts';

const entry = (tag: number, bits: number, id = 0xffff_ffff): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(tag, 0);
  bytes.writeUInt16LE(bits, 2);
  bytes.writeUInt32LE(id, 4);
  return bytes;
};
const acl = (...entries: Buffer[]): Buffer => Buffer.concat([Buffer.from([2, 0, 0, 0]), ...entries]);

test('every tag, ids as numbers', () => {
  const binary = acl(
    entry(1, 7),
    entry(2, 4, 1000),
    entry(2, 0, 4_294_967_294),
    entry(4, 5),
    entry(8, 3, 50),
    entry(16, 6),
    entry(32, 1),
  );
  expect(aclText(binary)).toBe(
    'user::rwx,user:1000:r--,user:4294967294:---,group::r-x,group:50:-wx,mask::rw-,other::--x',
  );
});

test('what is no ACL of this version is none', () => {
  const good = acl(entry(1, 7));
  const odd = [Buffer.alloc(0), good.subarray(0, 11), acl(), acl(entry(3, 7)), acl(entry(1, 8))];
  expect(odd.map(aclText)).toEqual(odd.map(() => null));
  expect(aclText(Buffer.concat([Buffer.from([3, 0, 0, 0]), entry(1, 7)]))).toBeNull();
});
