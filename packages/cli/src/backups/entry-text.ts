import { isUtf8 } from 'node:buffer';
import type { Entry, ManifestEntryKind } from '@aegis/archive/backup/manifest/lines';
import type { Difference } from '@aegis/archive/backup/restore/backup';

/** Entries of a backup as lines: a name stays one line and moves no cursor, whatever bytes it has. */

const NAMED: Readonly<Record<number, string>> = { 9: '\\t', 10: '\\n', 13: '\\r', 92: '\\\\' };
const octal = (byte: number): string => `\\${byte.toString(8).padStart(3, '0')}`;

/** As `ls --escape` has it: what is not printable, or not UTF-8, in octal. */
export const pathText = (path: Buffer): string => {
  if (!isUtf8(path))
    return [...path]
      .map((byte) => NAMED[byte] ?? (byte < 32 || byte > 126 ? octal(byte) : String.fromCharCode(byte)))
      .join('');
  return path
    .toString('utf8')
    .replace(
      /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu,
      (one) => NAMED[one.codePointAt(0) ?? 0] ?? [...Buffer.from(one)].map(octal).join(''),
    );
};

const KIND: Readonly<Record<ManifestEntryKind, string>> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  hardlink: 'h',
  character: 'c',
  block: 'b',
  fifo: 'p',
  socket: 's',
};

/** `drwxr-sr-t` */
export const modeText = ({ kind, mode }: Pick<Entry, 'kind' | 'mode'>): string => {
  const bits = [6, 3, 0].map((shift, at) => {
    const three = (mode >> shift) & 7;
    const special = ((mode >> 9) & (4 >> at)) !== 0;
    const execute = (three & 1) !== 0;
    const last = special ? (at === 2 ? (execute ? 't' : 'T') : execute ? 's' : 'S') : execute ? 'x' : '-';
    return `${three & 4 ? 'r' : '-'}${three & 2 ? 'w' : '-'}${last}`;
  });
  return KIND[kind] + bits.join('');
};

/** As `ls -l` shows it, times in UTC. */
export const entryLine = (entry: Entry): string => {
  const { user, uid, group, gid, size, mtime, path, target, status } = entry;
  const owner = `${(user || String(uid)).padEnd(8)} ${(group || String(gid)).padEnd(8)}`;
  const time = timeText(mtime);
  const link = target ? ` ${entry.kind === 'hardlink' ? '=' : '->'} ${pathText(target)}` : '';
  const note = status ? ` (${status})` : '';
  return `${modeText(entry)} ${plainOwner(owner)} ${String(size).padStart(12)} ${time} ${pathText(path)}${link}${note}`;
};

/** Names of users come from the node, too. */
const plainOwner = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?');

const timeText = (mtime: string): string => {
  const time = new Date(Number(mtime.split('.')[0]) * 1000);
  return Number.isNaN(time.getTime()) ? mtime : time.toISOString().slice(0, 19).replace('T', ' ');
};

const SIGN = { added: '+', removed: '-', modified: 'M' } as const;
export const differenceLine = ({ change, path, fields }: Difference): string =>
  `${SIGN[change]} ${pathText(path)}${change === 'modified' ? ` (${fields.join(', ')})` : ''}`;

/** `path`, or `path_b64` for what is not UTF-8. */
export const pathJson = (path: Buffer): { path: string } | { path_b64: string } =>
  isUtf8(path) ? { path: path.toString('utf8') } : { path_b64: path.toString('base64') };
