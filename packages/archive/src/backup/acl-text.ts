/** A POSIX ACL as the kernel hands it out (`system.posix_acl_access`, `system.posix_acl_default`; include/uapi/linux/posix_acl_xattr.h: a
 *  version, then tag, permissions and id of each entry, little-endian) in the short text form that tar programs exchange as SCHILY.acl.*,
 *  with ids as numbers: names may mean others where it is restored. */

export const ACL_ACCESS = 'system.posix_acl_access';
export const ACL_DEFAULT = 'system.posix_acl_default';

const VERSION = 2;
const ENTRY_BYTES = 8;
/** Tag → what it is called, and whether an id belongs to it. */
const TAGS: Readonly<Record<number, readonly [name: string, named: boolean]>> = {
  1: ['user', false],
  2: ['user', true],
  4: ['group', false],
  8: ['group', true],
  16: ['mask', false],
  32: ['other', false],
};

/** `user::rw-,user:1000:r--,group::r--,mask::r--,other::---`, or null for what is no such ACL. */
export const aclText = (binary: Buffer): string | null => {
  if (binary.length < 4 || (binary.length - 4) % ENTRY_BYTES !== 0 || binary.readUInt32LE(0) !== VERSION) return null;
  const entries: string[] = [];
  for (let at = 4; at < binary.length; at += ENTRY_BYTES) {
    const tag = TAGS[binary.readUInt16LE(at)];
    const bits = binary.readUInt16LE(at + 2);
    if (!tag || bits > 7) return null;
    const [name, named] = tag;
    const permissions = `${bits & 4 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${bits & 1 ? 'x' : '-'}`;
    entries.push(`${name}:${named ? binary.readUInt32LE(at + 4) : ''}:${permissions}`);
  }
  return entries.length === 0 ? null : entries.join(',');
};
