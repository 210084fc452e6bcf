/** The least eBPF object there can be, made in memory: one program of two instructions, `return <value>`. For asking a kernel what it
 *  takes without a compiler at hand. */

const HEADER_BYTES = 64;
const SECTION_BYTES = 64;
const SYMBOL_BYTES = 24;
const EM_BPF = 247;
const SHT_PROGBITS = 1;
const SHT_SYMTAB = 2;
const SHT_STRTAB = 3;
const SHF_ALLOC_EXEC = 6;

export const TINY_PROGRAM = 'probe';

/** An ELF64 relocatable file of this machine's byte order (both architectures are little-endian). */
export const tinyObject = (returned: number): Buffer => {
  const names = ['', '.strtab', TINY_PROGRAM, 'license', '.symtab'];
  const strings = Buffer.from(`${names.join('\0')}\0`);
  const nameAt = (name: string) => (name === '' ? 0 : strings.indexOf(`\0${name}\0`) + 1);

  const code = Buffer.alloc(16);
  code.writeUInt8(0xb7, 0); // r0 = returned
  code.writeInt32LE(returned, 4);
  code.writeUInt8(0x95, 8); // exit
  const license = Buffer.from('GPL\0');
  const symbols = Buffer.alloc(2 * SYMBOL_BYTES);
  symbols.writeUInt32LE(nameAt(TINY_PROGRAM), SYMBOL_BYTES);
  symbols.writeUInt8((1 << 4) | 2, SYMBOL_BYTES + 4); // a global function
  symbols.writeUInt16LE(2, SYMBOL_BYTES + 6); // in the section of the code
  symbols.writeBigUInt64LE(BigInt(code.length), SYMBOL_BYTES + 16);

  const bodies = [strings, code, license, symbols];
  const headers = Buffer.alloc((bodies.length + 1) * SECTION_BYTES);
  const shapes = [
    { name: '.strtab', type: SHT_STRTAB },
    { name: TINY_PROGRAM, type: SHT_PROGBITS, flags: SHF_ALLOC_EXEC, align: 8 },
    { name: 'license', type: SHT_PROGBITS, flags: 3 },
    { name: '.symtab', type: SHT_SYMTAB, link: 1, info: 1, align: 8, each: SYMBOL_BYTES },
  ];
  const padded = bodies.map((body) => Buffer.concat([body, Buffer.alloc((8 - (body.length % 8)) % 8)]));
  let offset = HEADER_BYTES;
  for (const [index, { name, type, flags = 0, link = 0, info = 0, align = 1, each = 0 }] of shapes.entries()) {
    const at = (index + 1) * SECTION_BYTES;
    headers.writeUInt32LE(nameAt(name), at);
    headers.writeUInt32LE(type, at + 4);
    headers.writeBigUInt64LE(BigInt(flags), at + 8);
    headers.writeBigUInt64LE(BigInt(offset), at + 24);
    headers.writeBigUInt64LE(BigInt(bodies[index]?.length ?? 0), at + 32);
    headers.writeUInt32LE(link, at + 40);
    headers.writeUInt32LE(info, at + 44);
    headers.writeBigUInt64LE(BigInt(align), at + 48);
    headers.writeBigUInt64LE(BigInt(each), at + 56);
    offset += padded[index]?.length ?? 0;
  }

  const header = Buffer.alloc(HEADER_BYTES);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // ELF, 64 bits, little-endian, version 1
  header.writeUInt16LE(1, 16); // relocatable
  header.writeUInt16LE(EM_BPF, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(offset), 40);
  header.writeUInt16LE(HEADER_BYTES, 52);
  header.writeUInt16LE(SECTION_BYTES, 58);
  header.writeUInt16LE(bodies.length + 1, 60);
  header.writeUInt16LE(1, 62); // section names are in .strtab too
  return Buffer.concat([header, ...padded, headers]);
};
