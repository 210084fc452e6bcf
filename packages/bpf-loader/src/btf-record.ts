import { type BtfBlob, countOf, flagOf, KIND, kindOf } from './btf-blob.ts';
import { BtfError, type BtfMember, type BtfReference, type BtfType } from './btf-types.ts';

/** One record of a checked blob as a typed object. */

const RECORD_BYTES = 12;
const INT_SIGNED = 1;
const INT_CHAR = 2;
const INT_BOOL = 4;
const LINKAGES = ['static', 'global', 'extern'] as const;

const REFERENCES: Readonly<Record<number, BtfReference['kind']>> = {
  [KIND.pointer]: 'pointer',
  [KIND.typedef]: 'typedef',
  [KIND.volatile]: 'volatile',
  [KIND.const]: 'const',
  [KIND.restrict]: 'restrict',
  [KIND.typeTag]: 'type_tag',
};

/** @throws BtfError */
export const readRecord = (blob: BtfBlob, id: number): BtfType => {
  if (id === 0) return { kind: 'void' };
  const place = blob.places[id];
  if (place === undefined) throw new BtfError(`there is no type ${id}`);
  const u32 = (at: number) => blob.view.getUint32(place + at, blob.littleEndian);
  const i32 = (at: number) => blob.view.getInt32(place + at, blob.littleEndian);
  const info = u32(4);
  const count = countOf(info);
  const name = blob.stringAt(u32(0));
  const typeOrSize = u32(8);
  const kind = kindOf(info);
  const each = <T>(bytes: number, read: (at: number) => T): T[] =>
    Array.from({ length: count }, (_, index) => read(RECORD_BYTES + index * bytes));

  const reference = REFERENCES[kind];
  if (reference) return { kind: reference, name, typeId: typeOrSize };
  switch (kind) {
    case KIND.int: {
      const encoding = (u32(12) >>> 24) & 0x0f;
      const bits = u32(12) & 0xff;
      const bitOffset = (u32(12) >>> 16) & 0xff;
      if (typeOrSize < 1 || typeOrSize > 16 || bits === 0 || bitOffset + bits > typeOrSize * 8)
        throw new BtfError(`integer '${name}' of ${bits} bits from ${bitOffset} in ${typeOrSize} bytes`);
      return {
        kind: 'int',
        name,
        sizeBytes: typeOrSize,
        bits,
        bitOffset,
        signed: (encoding & INT_SIGNED) !== 0,
        char: (encoding & INT_CHAR) !== 0 || (name === 'char' && typeOrSize === 1),
        bool: (encoding & INT_BOOL) !== 0,
      };
    }
    case KIND.array:
      return { kind: 'array', elementId: u32(12), length: u32(20) };
    case KIND.struct:
    case KIND.union: {
      const packed = flagOf(info);
      const members = each(12, (at): BtfMember => {
        const offset = u32(at + 8);
        if ((packed ? offset & 0xffffff : offset) > typeOrSize * 8)
          throw new BtfError(`a member of '${name}' begins beyond its ${typeOrSize} bytes`);
        return {
          name: blob.stringAt(u32(at)),
          typeId: u32(at + 4),
          bitOffset: packed ? offset & 0xffffff : offset,
          bitSize: packed ? offset >>> 24 : 0,
        };
      });
      return { kind: kind === KIND.struct ? 'struct' : 'union', name, sizeBytes: typeOrSize, members };
    }
    case KIND.enum: {
      // Compilers before LLVM 16 never set the flag: their negative values come out large, with the same bits.
      const signed = flagOf(info);
      const values = each(8, (at) => ({
        name: blob.stringAt(u32(at)),
        value: BigInt(signed ? i32(at + 4) : u32(at + 4)),
      }));
      return { kind: 'enum', name, sizeBytes: enumBytes(name, typeOrSize), signed, values };
    }
    case KIND.enum64: {
      const signed = flagOf(info);
      const values = each(12, (at) => {
        const value = (BigInt(u32(at + 8)) << 32n) | BigInt(u32(at + 4));
        return { name: blob.stringAt(u32(at)), value: signed ? BigInt.asIntN(64, value) : value };
      });
      return { kind: 'enum', name, sizeBytes: enumBytes(name, typeOrSize), signed, values };
    }
    case KIND.forward:
      return { kind: 'forward', name, of: flagOf(info) ? 'union' : 'struct' };
    case KIND.function:
      return { kind: 'function', name, typeId: typeOrSize };
    case KIND.prototype:
      return {
        kind: 'prototype',
        returnsId: typeOrSize,
        parameters: each(8, (at) => ({ name: blob.stringAt(u32(at)), typeId: u32(at + 4) })),
      };
    case KIND.variable:
      return { kind: 'variable', name, typeId: typeOrSize, linkage: LINKAGES[u32(12)] ?? 'global' };
    case KIND.section:
      return {
        kind: 'section',
        name,
        sizeBytes: typeOrSize,
        variables: each(12, (at) => ({ typeId: u32(at), offset: u32(at + 4), sizeBytes: u32(at + 8) })),
      };
    case KIND.float:
      if (![2, 4, 8, 12, 16].includes(typeOrSize)) throw new BtfError(`a float of ${typeOrSize} bytes`);
      return { kind: 'float', name, sizeBytes: typeOrSize };
    case KIND.tag:
      return { kind: 'tag', name, typeId: typeOrSize, component: i32(12) };
    default:
      return { kind: 'unknown', number: kind };
  }
};

const enumBytes = (name: string, sizeBytes: number): number => {
  if (![1, 2, 4, 8].includes(sizeBytes)) throw new BtfError(`enum '${name}' of ${sizeBytes} bytes`);
  return sizeBytes;
};
