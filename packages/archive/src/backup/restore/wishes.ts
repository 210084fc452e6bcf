import type { Xattr } from '@aegis/native/files';
import { ACL_ACCESS, ACL_DEFAULT } from '../acl-text.ts';
import type { TarEntry } from '../tar-header.ts';
import { modeWithoutAcl } from './acl-binary.ts';

/** What of an entry's power over others is restored: nothing that was not asked for. */
export interface Wishes {
  owners: boolean;
  setuid: boolean;
}

const SPECIAL = 0o6000;

export const wantsXattr = ({ owners, setuid }: Wishes, name: Buffer): boolean => {
  const text = name.toString('latin1');
  if (text.startsWith('user.')) return true;
  if (text === 'security.capability') return owners && setuid;
  return owners;
};

export const isAcl = ({ name }: Pick<Xattr, 'name'>): boolean => {
  const text = name.toString('latin1');
  return text === ACL_ACCESS || text === ACL_DEFAULT;
};

/** Whether it is executed with another's power: setuid, setgid, file capabilities. */
export const gainsPower = (wishes: Wishes, { kind, mode, xattrs }: TarEntry): boolean =>
  kind === 'file' &&
  wishes.owners &&
  wishes.setuid &&
  ((mode & SPECIAL) !== 0 || xattrs.some(({ name }) => name.toString('latin1') === 'security.capability'));

/** The same entry without that. */
export const powerless = (header: TarEntry): TarEntry => ({
  ...header,
  mode: header.mode & ~SPECIAL,
  xattrs: header.xattrs.filter(({ name }) => name.toString('latin1') !== 'security.capability'),
});

export const wantedMode = ({ owners, setuid }: Wishes, { mode, xattrs }: TarEntry): number => {
  const plain = owners ? mode : modeWithoutAcl(mode, xattrs);
  return owners && setuid ? plain : plain & ~SPECIAL;
};
