/** The kinds of BTF (Documentation/bpf/btf.rst of the kernel) as the parser hands them out. Type id 0 is void. */

interface Named {
  name: string;
}

export interface BtfInt extends Named {
  kind: 'int';
  sizeBytes: number;
  /** Of the integer inside its bytes: less than all of them only in bit-fields of old compilers. */
  bits: number;
  bitOffset: number;
  signed: boolean;
  /** C's `char` proper: an array of it is text. */
  char: boolean;
  bool: boolean;
}

export interface BtfMember extends Named {
  typeId: number;
  bitOffset: number;
  /** 0: no bit-field. */
  bitSize: number;
}

export interface BtfComposite extends Named {
  kind: 'struct' | 'union';
  sizeBytes: number;
  members: readonly BtfMember[];
}

export interface BtfEnum extends Named {
  kind: 'enum';
  sizeBytes: number;
  signed: boolean;
  values: readonly { name: string; value: bigint }[];
}

export interface BtfArray {
  kind: 'array';
  elementId: number;
  length: number;
}

export interface BtfReference extends Named {
  kind: 'pointer' | 'typedef' | 'volatile' | 'const' | 'restrict' | 'type_tag';
  typeId: number;
}

export interface BtfSection extends Named {
  kind: 'section';
  sizeBytes: number;
  variables: readonly { typeId: number; offset: number; sizeBytes: number }[];
}

export type BtfType =
  | { kind: 'void' }
  | BtfInt
  | BtfComposite
  | BtfEnum
  | BtfArray
  | BtfReference
  | BtfSection
  | { kind: 'float'; name: string; sizeBytes: number }
  | { kind: 'forward'; name: string; of: 'struct' | 'union' }
  | { kind: 'function'; name: string; typeId: number }
  | { kind: 'prototype'; returnsId: number; parameters: readonly { name: string; typeId: number }[] }
  | { kind: 'variable'; name: string; typeId: number; linkage: 'static' | 'global' | 'extern' }
  /** A note (`btf_decl_tag`) on a type, or on its member or parameter `component` (-1: on all of it). */
  | { kind: 'tag'; name: string; typeId: number; component: number }
  /** A kind of a later kernel, whose record could be passed over by the blob's own layout section. */
  | { kind: 'unknown'; number: number };
export type BtfKind = BtfType['kind'];

/** BTF that is no BTF, or that says what cannot be. The only error that parsing and decoding throw. */
export class BtfError extends Error {
  override readonly name = 'BtfError';
}
