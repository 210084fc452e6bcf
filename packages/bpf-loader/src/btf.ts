import { KIND, readBlob } from './btf-blob.ts';
import { readRecord } from './btf-record.ts';
import { BtfError, type BtfKind, type BtfType } from './btf-types.ts';

/** btf: reads BPF Type Format as compilers and kernels write it, so that map contents, globals and records can be shown by name.
 *  Called by values.ts, ring-records.ts, the daemon and `aegis artifacts inspect`; needs no addon and no kernel.
 *  Invariant: hostile bytes end in a BtfError after time in proportion to their number; nothing else is thrown. It must not
 *  look at ELF: it is given the section's or the kernel's raw bytes. */

export type { BtfKind, BtfMember, BtfType } from './btf-types.ts';
export { BtfError } from './btf-types.ts';

/** As deep as the kernel resolves (MAX_RESOLVE_DEPTH). */
export const DEPTH_LIMIT = 32;
const SIZE_LIMIT_BYTES = 64 * 1024 * 1024;
export const POINTER_BYTES = 8;

export interface BtfVariable {
  name: string;
  typeId: number;
  /** `.rodata`, `.data`, `.bss` or what the source named. */
  section: string;
  /** In the section. Zero in an object that libbpf has not read yet. */
  offset: number;
  sizeBytes: number;
}

export interface Btf {
  readonly littleEndian: boolean;
  /** With void, whose id is 0: ids are below it. */
  readonly typeCount: number;
  type(id: number): BtfType;
  /** Of the first type that bears the name; `struct x`, `union x` and `enum x` ask for that kind, a bare name for any that
   *  describes data (typedef before struct, union, enum, integer and float). Null: there is none. */
  typeByName(name: string): number | null;
  /** Past typedefs, const, volatile, restrict, type tags and variables. */
  resolve(id: number): { id: number; type: BtfType };
  sizeOf(id: number): number;
  /** As C would say it: `struct flow`, `__u32[4]`, `char *`. */
  describe(id: number): string;
  /** The global variables of all sections but `.maps` and the like. */
  variables(): BtfVariable[];
  /** Declaration tags on a global variable or type. */
  tagsOf(id: number): string[];
  /** Id of a global variable. */
  variableByName(name: string): number | null;
}

/** @throws BtfError */
export const parseBtf = (bytes: Uint8Array): Btf => {
  const blob = readBlob(bytes);
  const read = new Map<number, BtfType>();
  let names: Map<string, number> | null = null;
  let tags: Map<number, string[]> | null = null;

  const type = (id: number): BtfType => {
    const known = read.get(id);
    if (known) return known;
    const record = readRecord(blob, id);
    read.set(id, record);
    return record;
  };
  /** Names of the data types and variables: `kind name` → first id. Built once, on the first question. */
  const index = (): Map<string, number> => {
    if (names) return names;
    names = new Map();
    for (let id = 1; id < blob.places.length; id += 1) {
      const kind = INDEXED[blob.kindAt(id)];
      const name = kind ? blob.nameAt(id) : '';
      if (name && !names.has(`${kind} ${name}`)) names.set(`${kind} ${name}`, id);
    }
    return names;
  };

  const resolve = (id: number): { id: number; type: BtfType } => {
    let at = id;
    for (let depth = 0; depth <= DEPTH_LIMIT; depth += 1) {
      const one = type(at);
      if (!TRANSPARENT.has(one.kind) || !('typeId' in one)) return { id: at, type: one };
      at = one.typeId;
    }
    throw new BtfError(`type ${id} refers on more than ${DEPTH_LIMIT} times`);
  };

  const sizeOf = (id: number): number => {
    let count = 1;
    let at = id;
    for (let depth = 0; depth <= DEPTH_LIMIT; depth += 1) {
      const one = resolve(at).type;
      if (one.kind === 'array') {
        count *= one.length;
        at = one.elementId;
        continue;
      }
      const size = one.kind === 'pointer' ? POINTER_BYTES : 'sizeBytes' in one ? one.sizeBytes : null;
      if (size === null) throw new BtfError(`type ${id} (${describe(id)}) has no size`);
      if (size * count > SIZE_LIMIT_BYTES) throw new BtfError(`type ${id} is larger than ${SIZE_LIMIT_BYTES} bytes`);
      return size * count;
    }
    throw new BtfError(`type ${id} refers on more than ${DEPTH_LIMIT} times`);
  };

  const describe = (id: number): string => {
    let suffix = '';
    let at = id;
    for (let depth = 0; depth <= DEPTH_LIMIT; depth += 1) {
      const one = type(at);
      if (one.kind === 'array') {
        suffix = `${suffix}[${one.length}]`;
        at = one.elementId;
      } else if (one.kind === 'pointer') {
        suffix = ` *${suffix}`;
        at = one.typeId;
      } else if (one.kind === 'typedef' || !TRANSPARENT.has(one.kind) || !('typeId' in one)) {
        return `${plainName(one)}${suffix}`;
      } else at = one.typeId;
    }
    return '?';
  };

  return {
    littleEndian: blob.littleEndian,
    typeCount: blob.places.length,
    type,
    typeByName: (name) => {
      const known = index();
      const kinds = /^(struct|union|enum) /.test(name) ? [name] : DATA_KINDS.map((kind) => `${kind} ${name}`);
      for (const key of kinds) {
        const id = known.get(key);
        if (id !== undefined) return id;
      }
      return null;
    },
    resolve,
    sizeOf,
    describe,
    variables: () => {
      const found: BtfVariable[] = [];
      for (let id = 1; id < blob.places.length; id += 1) {
        if (blob.kindAt(id) !== KIND.section) continue;
        const section = type(id);
        if (section.kind !== 'section' || !GLOBALS.test(section.name)) continue;
        for (const { typeId, offset, sizeBytes } of section.variables) {
          const variable = type(typeId);
          if (variable.kind !== 'variable') continue;
          found.push({ name: variable.name, typeId: variable.typeId, section: section.name, offset, sizeBytes });
        }
      }
      return found;
    },
    variableByName: (name) => index().get(`variable ${name}`) ?? null,
    tagsOf: (id) => {
      if (!tags) {
        tags = new Map();
        for (let at = 1; at < blob.places.length; at += 1) {
          if (blob.kindAt(at) !== KIND.tag) continue;
          const one = type(at);
          if (one.kind !== 'tag' || one.component !== -1) continue;
          const known = tags.get(one.typeId);
          if (known) known.push(one.name);
          else tags.set(one.typeId, [one.name]);
        }
      }
      return tags.get(id) ?? [];
    },
  };
};

const TRANSPARENT: ReadonlySet<BtfKind> = new Set(['typedef', 'volatile', 'const', 'restrict', 'type_tag', 'variable']);
const DATA_KINDS = ['typedef', 'struct', 'union', 'enum', 'int', 'float'] as const;
const INDEXED: Readonly<Record<number, BtfKind>> = {
  [KIND.typedef]: 'typedef',
  [KIND.struct]: 'struct',
  [KIND.union]: 'union',
  [KIND.enum]: 'enum',
  [KIND.enum64]: 'enum',
  [KIND.int]: 'int',
  [KIND.float]: 'float',
  [KIND.variable]: 'variable',
};
const GLOBALS = /^\.(rodata|data|bss)(\.|$)/;

const plainName = (type: BtfType): string => {
  if (type.kind === 'struct' || type.kind === 'union' || type.kind === 'enum')
    return `${type.kind} ${type.name || '{…}'}`;
  if (type.kind === 'forward') return `${type.of} ${type.name}`;
  if (type.kind === 'prototype') return 'function';
  return 'name' in type && type.name ? type.name : type.kind;
};
