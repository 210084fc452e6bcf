import { readFileSync } from 'node:fs';

/** Names of users and groups, as the system's own files have them. Directory services are not asked: they may be slow, or away, and
 *  the number is stored in either case. */
export interface Owners {
  /** Empty for an id without a name. */
  user(uid: number): string;
  group(gid: number): string;
}

export const noOwners: Owners = { user: () => '', group: () => '' };

/** Reads passwd and group once. A file that is not there has no names. */
export const ownersOf = (passwd = '/etc/passwd', group = '/etc/group'): Owners => {
  const users = namesOf(passwd);
  const groups = namesOf(group);
  return { user: (uid) => users.get(uid) ?? '', group: (gid) => groups.get(gid) ?? '' };
};

const MOST_CHARS = 255;

/** `name:password:id:…` a line; of several names for an id the first one counts, as for getpwuid(3). */
const namesOf = (path: string): Map<number, string> => {
  const names = new Map<number, string>();
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'EACCES')) return names;
    throw error;
  }
  for (const line of text.split('\n')) {
    const [name = '', , id = ''] = line.split(':');
    const number = /^\d{1,10}$/.test(id) ? Number(id) : -1;
    if (number >= 0 && name !== '' && name.length <= MOST_CHARS && !names.has(number)) names.set(number, name);
  }
  return names;
};
