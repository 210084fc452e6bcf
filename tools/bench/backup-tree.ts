import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** The tree that backups are measured with: many small files of text such as source code and configuration, and a few large ones that
 *  do not get smaller. The same for the same seed. No two files share more than what words share, so that deduplication has nothing
 *  to find that is not there. */

export interface BackupTree {
  files: number;
  bytes: number;
}

export interface TreeSize {
  smallFiles: number;
  smallBytes: number;
  randomFiles: number;
  randomBytes: number;
  seed?: number;
}

const MB = 1_000_000;
/** What docs/performance.md speaks of: 1.1 GB. */
export const WHOLE_TREE: TreeSize = {
  smallFiles: 48_000,
  smallBytes: 800 * MB,
  randomFiles: 30,
  randomBytes: 300 * MB,
};
export const QUICK_TREE: TreeSize = {
  smallFiles: 4_800,
  smallBytes: 80 * MB,
  randomFiles: 3,
  randomBytes: 30 * MB,
};

const FILES_OF_DIRECTORY = 40;
const DIRECTORIES_OF_DIRECTORY = 30;
const VOCABULARY = 6000;
const TEXT_BYTES = 64 * MB;
const LINE_CHARS = 90;

/** Takes some seconds. `directory` is made and must not exist. */
export const makeBackupTree = (directory: string, size: TreeSize = WHOLE_TREE): BackupTree => {
  const random = randomFrom(size.seed ?? 4);
  mkdirSync(directory);
  const text = textOf(random, Math.min(TEXT_BYTES, size.smallBytes));
  const sizes = sizesOf(random, size.smallFiles, size.smallBytes);
  let bytes = 0;
  let folder = '';
  for (const [at, length] of sizes.entries()) {
    if (at % FILES_OF_DIRECTORY === 0) folder = makeFolder(directory, at / FILES_OF_DIRECTORY);
    const from = Math.floor(random() * (text.length - length));
    writeWhole(join(folder, `part-${at}.${at % 3 === 0 ? 'ts' : 'conf'}`), text.subarray(from, from + length));
    bytes += length;
  }
  const blobs = join(directory, 'blobs');
  mkdirSync(blobs);
  for (let at = 0; at < size.randomFiles; at++) {
    const blob = Buffer.allocUnsafe(Math.floor(size.randomBytes / size.randomFiles / 4) * 4);
    const words = new Uint32Array(blob.buffer, blob.byteOffset, blob.length / 4);
    for (let word = 0; word < words.length; word++) words[word] = random() * 2 ** 32;
    writeWhole(join(blobs, `blob-${at}.bin`), blob);
    bytes += blob.length;
  }
  return { files: size.smallFiles + size.randomFiles, bytes };
};

const makeFolder = (directory: string, number: number): string => {
  const folder = join(directory, `area-${Math.floor(number / DIRECTORIES_OF_DIRECTORY)}`, `module-${number}`);
  mkdirSync(folder, { recursive: true });
  return folder;
};

const writeWhole = (path: string, bytes: Buffer): void => {
  const fd = openSync(path, 'wx', 0o644);
  try {
    writeSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
};

/** Mulberry32: small, quick and the same everywhere. */
const randomFrom = (seed: number): (() => number) => {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
};

/** Most files are small, a few are large; together exactly `bytes`. */
const sizesOf = (random: () => number, files: number, bytes: number): number[] => {
  const weights = Array.from({ length: files }, () => Math.exp(2.2 * (random() + random() + random() - 1.5)));
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  const sizes = weights.map((weight) => Math.floor((weight / whole) * bytes));
  const rest = bytes - sizes.reduce((sum, one) => sum + one, 0);
  sizes[0] = (sizes[0] ?? 0) + rest;
  return sizes;
};

/** Words as often as words are (the nth some 1/n times as often as the first), in lines: packs to about a third. */
const textOf = (random: () => number, bytes: number): Buffer => {
  const words = Array.from({ length: VOCABULARY }, () => {
    const length = 2 + Math.floor(random() * random() * 12);
    return Array.from({ length }, () => String.fromCharCode(97 + Math.floor(random() * 26))).join('');
  });
  const text = Buffer.allocUnsafe(bytes);
  for (let at = 0; at < bytes; ) {
    const indent = '  '.repeat(Math.floor(random() * 5));
    let line = indent;
    while (line.length < LINE_CHARS * random()) line += `${words[Math.floor(VOCABULARY ** random()) - 1]} `;
    at += text.write(`${line};\n`, at, 'latin1');
  }
  return text;
};
