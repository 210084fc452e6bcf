/** The compiled test programs by name: `make` runs once for each test process, under a lock that all of them share. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const packageDir = fileURLToPath(new URL('..', import.meta.url));
const sources = join(packageDir, 'bpf');
const objects = join(packageDir, 'build', 'bpf');

let built = false;

/** Safe from several test files at once; does nothing when up to date. */
export const buildPrograms = (): void => {
  if (built) return;
  mkdirSync(objects, { recursive: true });
  execFileSync('flock', [join(objects, '.lock'), 'make', '--silent', '-C', sources, 'all'], { stdio: 'inherit' });
  built = true;
};

/** Path of the object of `bpf/<name>.bpf.c`. */
export const programPath = (name: string): string => {
  buildPrograms();
  return join(objects, `${name}.bpf.o`);
};

export const programBytes = (name: string): Buffer => readFileSync(programPath(name));

/** Raw bytes of one section of a 64-bit little-endian ELF file that a compiler of ours wrote. */
export const sectionBytes = (object: Buffer, wanted: string): Buffer => {
  const table = Number(object.readBigUInt64LE(0x28));
  const each = object.readUInt16LE(0x3a);
  const count = object.readUInt16LE(0x3c);
  const at = (index: number) => {
    const header = table + index * each;
    const offset = Number(object.readBigUInt64LE(header + 0x18));
    const size = Number(object.readBigUInt64LE(header + 0x20));
    return { name: object.readUInt32LE(header), bytes: object.subarray(offset, offset + size) };
  };
  const names = at(object.readUInt16LE(0x3e)).bytes;
  for (let index = 0; index < count; index += 1) {
    const section = at(index);
    if (names.toString('latin1', section.name, names.indexOf(0, section.name)) === wanted) return section.bytes;
  }
  throw new Error(`no section ${wanted}`);
};

export const btfBytes = (name: string): Buffer => sectionBytes(programBytes(name), '.BTF');

/** A C program that is compiled into a folder and is not stripped; returns its path. */
export const compileC = (folder: string, name: string, source: string): string => {
  const path = join(folder, name);
  execFileSync('cc', ['-O1', '-g', '-fno-inline', '-x', 'c', '-', '-o', path], {
    input: source,
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  return path;
};
