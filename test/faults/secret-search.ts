import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';

/** Looks for bytes where a process could hold them: its memory, environment and command line, and files. Each answer names what was found. */

export type Needles = ReadonlyMap<string, Buffer>;

const CHUNK = 4 * 1024 * 1024;

/** Each form in which a program may hold a text. */
export const formsOf = (name: string, secret: string | Buffer): [string, Buffer][] => {
  const bytes = Buffer.from(secret);
  const forms: [string, Buffer][] = [
    [name, bytes],
    [`${name}, hexadecimal`, Buffer.from(bytes.toString('hex'))],
    // The last characters depend on what follows.
    [`${name}, base64`, Buffer.from(bytes.toString('base64').replace(/.{0,4}$/, ''))],
    [`${name}, base64url`, Buffer.from(bytes.toString('base64url').slice(0, -3))],
  ];
  return typeof secret === 'string' ? [...forms, [`${name}, UTF-16`, Buffer.from(secret, 'utf16le')]] : forms;
};

const foundIn = (bytes: Buffer, needles: Needles, found: Set<string>): void => {
  for (const [name, needle] of needles) if (!found.has(name) && bytes.includes(needle)) found.add(name);
};

/** Every readable mapping but those of the program's own file that cannot be written to, environment and command line. Others have their turn meanwhile: what is in the middle of something stays so. */
export const foundInProcess = async (pid: number, needles: Needles): Promise<string[]> => {
  const found = new Set<string>();
  const overlap = Math.max(...[...needles.values()].map(({ length }) => length));
  const chunk = Buffer.alloc(CHUNK + overlap);
  const program = readlinkSync(`/proc/${pid}/exe`);
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line) ?? [];
      if (from === undefined || to === undefined || /\[v(var|syscall|var_vclock)\]$/.test(line)) continue;
      if (/^\S+ r-.. /.test(line) && line.endsWith(` ${program}`)) continue;
      const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)];
      for (let at = start; at < end; at += CHUNK) {
        const bytes = readableAt(fd, chunk, Math.min(end - at, chunk.length), at);
        if (bytes === 0) break;
        foundIn(chunk.subarray(0, bytes), needles, found);
        await setImmediate();
      }
    }
  } finally {
    closeSync(fd);
  }
  for (const file of ['environ', 'cmdline']) foundIn(readFileSync(`/proc/${pid}/${file}`), needles, found);
  return [...found].sort();
};

/** 0 where a mapping has gone meanwhile. */
const readableAt = (fd: number, into: Buffer, length: number, at: number): number => {
  try {
    return readSync(fd, into, 0, length, at);
  } catch {
    return 0;
  }
};

export const foundInFiles = (folder: string, needles: Needles): string[] => {
  const found = new Set<string>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    try {
      foundIn(readFileSync(join(entry.parentPath, entry.name)), needles, found);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // gone meanwhile
    }
  }
  return [...found].sort();
};
export const foundInBytes = (bytes: Buffer, needles: Needles): string[] => {
  const found = new Set<string>();
  foundIn(bytes, needles, found);
  return [...found].sort();
};
