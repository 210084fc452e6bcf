import { getSystemErrorMessage } from 'node:util';
import { SystemError } from '@aegis/native/system-error';

/** What could not be archived, or not as it is: an error of the run's list, which does not end the run. */
export interface Problem {
  type: 'problem';
  /** Relative to `/`, as entries have it. */
  path: Buffer;
  /** The kernel's (ENOENT, …), an entry's status (shrunk, …), or one of OWN_CODES. */
  code: string;
  message: string;
}

export const OWN_CODES = [
  'source_changed',
  'moved',
  'xattrs_too_large',
  'file_too_large',
  'time_out_of_range',
  'link_lost',
  'path_too_long',
  'bad_source',
] as const;
export type OwnCode = (typeof OWN_CODES)[number];

/** Not of the file, but of this process: a backup without what it hits would be one without most files. */
const OURS = ['EMFILE', 'ENFILE', 'ENOMEM', 'EBADF', 'EFAULT'];

const SENTENCES: Readonly<Record<string, string>> = {
  ENOENT: 'was gone before it was read',
  EACCES: 'may not be read by the user who makes the backup',
  EPERM: 'may not be read by the user who makes the backup',
  ELOOP: 'became a symlink while it was looked at',
  EIO: 'could not be read from its disk',
  ESTALE: 'could not be read: its file system is gone',
  ENOTCONN: 'could not be read: its file system is gone',
  ENXIO: 'could not be opened: there is nothing behind it',
  ENOTDIR: 'is no longer the directory that it was',
  EAGAIN: 'is held by another program',
};

/** The failed call; what is none, or not the file's fault, is thrown on. */
export const failureOf = (error: unknown): SystemError => {
  if (!(error instanceof SystemError) || OURS.includes(error.code)) throw error;
  return error;
};

export const problemOf = (path: Buffer, error: unknown): Problem => {
  const { code, errno, syscall } = failureOf(error);
  const sentence = SENTENCES[code] ?? `could not be read: ${getSystemErrorMessage(-errno)}`;
  return { type: 'problem', path, code, message: `${sentence} (${syscall})` };
};

export const ownProblem = (path: Buffer, code: OwnCode, message: string): Problem => ({
  type: 'problem',
  path,
  code,
  message,
});
