import type { Btf } from './btf.ts';
import { hexBytes, hexText } from './network-addresses.ts';
import type { MapInfo } from './types.ts';
import { type DecodeOptions, decode } from './value-decode.ts';
import { encode } from './value-encode.ts';
import { type Value, ValueError } from './value-types.ts';

/** values: keys and values of maps, and globals, between bytes and JSON-able values by their BTF type; plain bytes as hex where
 *  there is none. Called by the daemon (`aegis artifacts maps`, initial contents) and by the CLI.
 *  Invariant: what decoding gives, encoding takes and gives the same bytes back (but for padding, bytes after a text's end, and
 *  booleans other than 1). It must not touch the kernel. */

export { type DecodeOptions, decode } from './value-decode.ts';
export { encode } from './value-encode.ts';
export { type Value, ValueError, type WideIntegers } from './value-types.ts';

/** Of a map whose value each CPU has its own of: an array by CPU number, each decoded by itself.
 *  @param bytes as the kernel gives them: `valueSize`, rounded up to 8, for each possible CPU */
export const perCpu = <T>(bytes: Uint8Array, valueSize: number, decodeOne: (bytes: Uint8Array) => T): T[] => {
  const stride = Math.ceil(valueSize / 8) * 8;
  if (stride === 0) return [];
  return Array.from({ length: Math.floor(bytes.length / stride) }, (_, cpu) =>
    decodeOne(bytes.subarray(cpu * stride, cpu * stride + valueSize)),
  );
};

export interface MapCodec {
  key(bytes: Uint8Array): Value;
  /** An array by CPU where each has its own. */
  value(bytes: Uint8Array): Value;
  /** @throws ValueError */
  keyBytes(key: unknown): Uint8Array;
  /** One value's bytes, without rounding. @throws ValueError */
  valueBytes(value: unknown): Uint8Array;
  /** As C says them; null: bytes. */
  keyType: string | null;
  valueType: string | null;
}

type MapShape = Pick<MapInfo, 'type' | 'keySize' | 'valueSize' | 'btfKeyTypeId' | 'btfValueTypeId'>;

/** @param btf the one that the map's type ids belong to; null where it has none */
export const mapCodec = (map: MapShape, btf: Btf | null, options: DecodeOptions = {}): MapCodec => {
  const keyId = map.btfKeyTypeId;
  const valueId = map.btfValueTypeId;
  const decoder = (typeId: number, size: number, numbered: boolean) => (bytes: Uint8Array) => {
    if (btf && typeId > 0) return decode(btf, typeId, bytes, options);
    return numbered && size === 4 ? nativeU32(bytes) : hexText(bytes);
  };
  const encoder = (typeId: number, size: number, numbered: boolean) => (value: unknown) =>
    btf && typeId > 0 ? encode(btf, typeId, value) : plainBytes(value, size, numbered);
  const key = [keyId, map.keySize, INDEXED.has(map.type)] as const;
  const value = [valueId, map.valueSize, HOLDS_IDS.has(map.type)] as const;
  const one = decoder(...value);
  const describe = (typeId: number) => (btf && typeId > 0 ? btf.describe(typeId) : null);
  return {
    key: decoder(...key),
    value: PER_CPU.has(map.type) ? (bytes) => perCpu(bytes, map.valueSize, one) : one,
    keyBytes: encoder(...key),
    valueBytes: encoder(...value),
    keyType: describe(keyId),
    valueType: describe(valueId),
  };
};

export const PER_CPU: ReadonlySet<string> = new Set([
  'percpu_hash',
  'percpu_array',
  'lru_percpu_hash',
  'percpu_cgroup_storage',
]);
/** Their keys are positions, whether BTF says so or not. */
const INDEXED: ReadonlySet<string> = new Set([
  'array',
  'percpu_array',
  'prog_array',
  'perf_event_array',
  'cgroup_array',
  'array_of_maps',
  'devmap',
  'sockmap',
  'cpumap',
  'xskmap',
  'reuseport_sockarray',
]);
/** Read, their values are ids of programs and maps, or interfaces' numbers. */
const HOLDS_IDS: ReadonlySet<string> = new Set([
  'prog_array',
  'array_of_maps',
  'hash_of_maps',
  'devmap',
  'devmap_hash',
]);

const nativeU32 = (bytes: Uint8Array): number => Buffer.from(bytes).readUInt32LE(0);

const plainBytes = (value: unknown, size: number, numbered: boolean): Uint8Array => {
  if (numbered && size === 4 && typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    return Uint8Array.from(bytes);
  }
  const bytes = typeof value === 'string' ? hexBytes(value) : null;
  if (bytes?.length === size) return bytes;
  throw new ValueError('', `${size} bytes in hex (0x…): there is no type for them`, String(value).slice(0, 60));
};
