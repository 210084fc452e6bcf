import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { LoaderError } from '../src/errors.ts';
import { inspectObject } from '../src/inspect.ts';
import { MAX_OBJECT_BYTES } from '../src/object.ts';
import { programBytes, programPath } from './programs.ts';

/** Objects that mean harm: each is refused by name of what is wrong, before libbpf sees it. */

const packageDir = fileURLToPath(new URL('..', import.meta.url));
const good = programBytes('globals');

interface Section {
  /** Of its header. */
  header: number;
  offset: number;
  size: number;
}

const sections = (() => {
  const table = Number(good.readBigUInt64LE(0x28));
  const at = (index: number): Section => {
    const header = table + index * 64;
    return {
      header,
      offset: Number(good.readBigUInt64LE(header + 0x18)),
      size: Number(good.readBigUInt64LE(header + 0x20)),
    };
  };
  const names = at(good.readUInt16LE(0x3e));
  const found = new Map<string, Section>();
  for (let index = 1; index < good.readUInt16LE(0x3c); index++) {
    const start = names.offset + good.readUInt32LE(at(index).header);
    found.set(good.toString('latin1', start, good.indexOf(0, start)), at(index));
  }
  return found;
})();

const section = (name: string): Section => {
  const found = sections.get(name);
  if (!found) throw new Error(`no section ${name}`);
  return found;
};

const changed = (change: (bytes: Buffer) => void): Buffer => {
  const bytes = Buffer.from(good);
  change(bytes);
  return bytes;
};
const u16 = (at: number, value: number): Buffer => changed((bytes) => bytes.writeUInt16LE(value, at));
const u32 = (at: number, value: number): Buffer => changed((bytes) => bytes.writeUInt32LE(value, at));
const u64 = (at: number, value: bigint): Buffer => changed((bytes) => bytes.writeBigUInt64LE(value, at));

const SYMBOL = 24;
/** The place of a function's symbol. */
const functionSymbol = (() => {
  const { offset, size } = section('.symtab');
  for (let at = offset; at < offset + size; at += SYMBOL) if ((good.readUInt8(at + 4) & 15) === 2) return at;
  throw new Error('no function');
})();
const btf = section('.BTF').offset;
const btfTypes = btf + 24;
const ext = section('.BTF.ext').offset;
const relocations = section('.relxdp');

const hostile: [what: string, bytes: Uint8Array, why: string][] = [
  ['nothing', Buffer.alloc(0), 'it is too short for an ELF header'],
  ['a text', Buffer.alloc(100, 'text '), 'it is not ELF'],
  ['too many bytes', Buffer.alloc(MAX_OBJECT_BYTES + 1), 'it is larger than 16 MiB'],
  ['32 bits', changed((bytes) => bytes.writeUInt8(1, 4)), 'it is not 64 bit ELF of version 1'],
  ['the other byte order', changed((bytes) => bytes.writeUInt8(2, 5)), 'byte order'],
  ['another machine', u16(0x12, 62), 'it was not compiled for BPF'],
  ['a program to run', u16(0x10, 2), 'it is not relocatable'],
  ['a header of another size', u16(0x34, 32), 'its ELF header is odd'],
  ['program headers', u16(0x38, 1), 'its ELF header is odd'],
  ['a section table beyond the end', u64(0x28, 1n << 40n), 'its section table is out of bounds'],
  ['a section table that wraps around', u64(0x28, (1n << 64n) - 64n), 'its section table is out of bounds'],
  ['a section table at an odd place', u64(0x28, 65n), 'its section table is out of bounds'],
  ['sections of another size', u16(0x3a, 32), 'its section table is out of bounds'],
  ['more sections than there are', u16(0x3c, 0xffff), 'its section table is out of bounds'],
  ['no sections', u16(0x3c, 0), 'its section table is out of bounds'],
  ['no section names', u16(0x3e, 0), 'its table of section names is missing'],
  ['section names elsewhere', u16(0x3e, 0xfff0), 'its table of section names is missing'],
  ['a section beyond the end', u64(section('xdp').header + 0x20, 1n << 62n), 'is out of bounds'],
  ['a section that wraps around', u64(section('xdp').header + 0x18, (1n << 64n) - 8n), 'is out of bounds'],
  ['a name beyond the names', u32(section('xdp').header, 0xffff), 'is out of bounds'],
  ['a link to nowhere', u32(section('.symtab').header + 0x28, 4000), 'links to a section that is not there'],
  ['a compressed section', u64(section('.data').header + 8, 0x803n), 'is compressed'],
  ['half an instruction', u64(section('xdp').header + 0x20, BigInt(section('xdp').size - 4)), 'part of an instruction'],
  ['a .bss as large as memory', u64(section('.bss').header + 0x20, 1n << 50n), 'its .bss sections are too large'],
  ['symbols of another size', u64(section('.symtab').header + 0x38, 8n), 'its symbol table is broken'],
  ['a symbol name beyond the names', u32(functionSymbol, 0xffffff), 'the name of symbol'],
  ['a function beyond its section', u64(functionSymbol + 8, 1n << 33n), 'is out of bounds'],
  ['a function whose end wraps around', u64(functionSymbol + 16, (1n << 64n) - 8n), 'is out of bounds'],
  ['a function of nothing', u64(functionSymbol + 16, 0n), 'is not a run of instructions'],
  ['a function in no section', u16(functionSymbol + 6, 0xff00), 'is in no section'],
  ['a function in a section that is not there', u16(functionSymbol + 6, 0xfe), 'is in a section that is not there'],
  [
    'a relocation of a symbol that is not there',
    u32(relocations.offset + 12, 0xffff),
    'names a symbol that is not there',
  ],
  ['a relocation out of its section', u64(relocations.offset, 1n << 40n), 'points out of its section'],
  ['a relocation into an instruction', u64(relocations.offset, 4n), 'points into an instruction'],
  ['relocations of a section that is not there', u32(relocations.header + 0x2c, 4000), 'is broken'],
  ['BTF without its magic', u16(btf, 0), "its header is not BTF's"],
  ['BTF with a header beyond the end', u32(btf + 4, 0xffffffff), 'its header is out of bounds'],
  ['BTF types beyond the end', u32(btf + 12, 0xfffffff0), 'its parts are out of bounds'],
  ['BTF names beyond the end', u32(btf + 20, 0xffffff), 'its parts are out of bounds'],
  ['BTF of an unknown kind', u32(btfTypes + 4, 31 << 24), 'a type of an unknown kind'],
  ['BTF with endless members', u32(btfTypes + 4, (4 << 24) | 0xffff), 'its last type is cut off'],
  ['a type that points to none', u32(btfTypes + 8, 0x7fffffff), 'refers to a type that is not there'],
  [
    'a type that is itself',
    changed((bytes) => {
      // The first type becomes a typedef of type 1: itself.
      bytes.writeUInt32LE(8 << 24, btfTypes + 4);
      bytes.writeUInt32LE(1, btfTypes + 8);
    }),
    'holds itself',
  ],
  ['.BTF.ext without its magic', u16(ext, 0), 'the header of .BTF.ext is broken'],
  ['.BTF.ext beyond the end', u32(ext + 12, 0xffffff), 'of .BTF.ext is out of bounds'],
  ['.BTF.ext with records of no size', u32(ext + good.readUInt32LE(ext + 4), 0), 'an odd record size'],
];

test.each(hostile)('%s is refused', async (_, bytes, why) => {
  const thrown: unknown = await inspectObject(bytes).catch((error: unknown) => error);
  expect(thrown).toBeInstanceOf(LoaderError);
  expect(thrown).toMatchObject({ code: 'bpf.bad_object', message: expect.stringContaining(why) });
});

test('a map that merely says it is struct_ops is refused: libbpf would follow a null pointer', async () => {
  const bytes = Buffer.from(programBytes('map_arrays'));
  // `__uint(type, BPF_MAP_TYPE_ARRAY)` is an array of two elements in BTF: name, kind 3, size, element, index, length.
  const words = [...Array(Math.floor(bytes.length / 4) - 6).keys()].map((at) => at * 4);
  const isType = (at: number): boolean =>
    bytes.readUInt32LE(at) === 0 &&
    bytes.readUInt32LE(at + 4) === 3 << 24 &&
    bytes.readUInt32LE(at + 8) === 0 &&
    bytes.readUInt32LE(at + 20) === 2;
  const place = words.find(isType);
  if (place === undefined) throw new Error('no map type');
  bytes.writeUInt32LE(26, place + 20);
  await expect(inspectObject(bytes)).rejects.toMatchObject({
    code: 'bpf.bad_object',
    message: expect.stringContaining('struct_ops'),
  });
});

test('every prefix of an object is refused or read, and none is taken for the whole', async () => {
  const steps = Array.from({ length: 200 }, (_, at) => Math.floor((good.length * at) / 200));
  const outcomes = await Promise.all(
    steps.map((length) =>
      inspectObject(good.subarray(0, length)).then(
        () => 'read',
        (error: unknown) => (error instanceof LoaderError ? error.code : String(error)),
      ),
    ),
  );
  expect(new Set(outcomes)).toEqual(new Set(['bpf.bad_object']));
});

test('mutated objects do not crash the reader, under AddressSanitizer', { timeout: 600_000 }, () => {
  programPath('globals');
  execFileSync('flock', [join(packageDir, 'Makefile'), 'make', '--silent', '-C', packageDir, 'asan'], {
    stdio: 'inherit',
  });
  const folder = join(packageDir, 'build', 'bpf');
  const objects = readdirSync(folder).filter((name) => name.endsWith('.bpf.o'));
  const mutants = process.env.AEGIS_LONG ? 300_000 : 10_000;
  const output = execFileSync(
    join(packageDir, 'build/Release/elf-fuzz'),
    ['--seed', '3', '--count', `${mutants}`, ...objects.map((name) => join(folder, name))],
    { encoding: 'utf8', env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=1', UBSAN_OPTIONS: 'print_stacktrace=1' } },
  );
  const counts: unknown = JSON.parse(output);
  expect(counts).toEqual({
    mutants,
    refused: expect.any(Number),
    refusedByLibbpf: expect.any(Number),
    read: expect.any(Number),
    relocated: expect.any(Number),
  });
});
