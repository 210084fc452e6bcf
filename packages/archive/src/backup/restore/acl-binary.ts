import { ACL_ACCESS } from '../acl-text.ts';

/** `../acl-text.ts` the other way round: the text of SCHILY.acl.* as the kernel takes it, and what the file's mode would be without it. */

const VERSION = 2;
const ENTRY_BYTES = 8;
const NO_ID = 0xffff_ffff;
const TAGS: ReadonlyMap<string, number> = new Map([
  ['user', 1],
  ['user:', 2],
  ['group', 4],
  ['group:', 8],
  ['mask', 16],
  ['other', 32],
]);
const FORM = /^(user|group|mask|other):(\d{0,10}):([r-])([w-])([x-])$/;

/** Null for what `aclText` never writes. */
export const aclBinary = (text: string): Buffer | null => {
  const entries = text.split(',');
  const binary = Buffer.alloc(4 + ENTRY_BYTES * entries.length);
  binary.writeUInt32LE(VERSION, 0);
  let at = 4;
  for (const entry of entries) {
    const [, name = '', id = '', read, write, execute] = FORM.exec(entry) ?? [];
    const tag = TAGS.get(id === '' ? name : `${name}:`);
    const number = id === '' ? NO_ID : Number(id);
    if (tag === undefined || number > NO_ID) return null;
    binary.writeUInt16LE(tag, at);
    binary.writeUInt16LE((read === 'r' ? 4 : 0) | (write === 'w' ? 2 : 0) | (execute === 'x' ? 1 : 0), at + 2);
    binary.writeUInt32LE(number, at + 4);
    at += ENTRY_BYTES;
  }
  return binary;
};

/** The group bits of a mode stand for the ACL's mask where there is one. Where the ACL is not restored, they must be what the owning group may:
 *  else the group would get what was meant for one of the ACL's own. */
export const modeWithoutAcl = (
  mode: number,
  xattrs: readonly { readonly name: Buffer; readonly value: Buffer }[],
): number => {
  const acl = xattrs.find(({ name }) => name.toString('latin1') === ACL_ACCESS)?.value;
  if (!acl) return mode;
  let group = 7;
  for (let at = 4; at + ENTRY_BYTES <= acl.length; at += ENTRY_BYTES) {
    const tag = acl.readUInt16LE(at);
    if (tag === 4 || tag === 16) group &= acl.readUInt16LE(at + 2);
  }
  return (mode & ~0o70) | (((mode >> 3) & group & 7) << 3);
};
