/** The error of a system call that failed: `code` (ENOENT, …), `errno` (positive, as the kernel gives it) and `syscall`. */
import { constants } from 'node:os';
import { getSystemErrorMessage } from 'node:util';

export class SystemError extends Error {
  override name = 'SystemError';
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(errno: number, syscall: string, path?: Buffer) {
    const code = errorName(errno);
    super(`${code}: ${getSystemErrorMessage(-errno)}, ${syscall}${path ? ` '${printable(path)}'` : ''}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

const errorName = (errno: number): string => {
  for (const [name, number] of Object.entries(constants.errno)) if (number === errno) return ALIASES.get(name) ?? name;
  return `E${errno}`;
};

// One number, two names: the one that the kernel's documents use.
const ALIASES = new Map([
  ['ENOTSUP', 'EOPNOTSUPP'],
  ['EWOULDBLOCK', 'EAGAIN'],
]);

/** For messages: control characters and what is no UTF-8 as \xNN, at most 200 characters (from the end: there the name stands). */
const printable = (path: Buffer): string => {
  const text = path.toString('utf8');
  const whole = Buffer.from(text).equals(path) ? text : path.toString('latin1');
  const shown = whole.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return shown.length > 200 ? `…${shown.slice(-200)}` : shown;
};

/** `code` of any error that has one. */
export const errorCode = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
