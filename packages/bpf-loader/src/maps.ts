/** Maps: opened by object, pin or id; elements as bytes (values.ts decodes them by BTF). */
import { checkBytes, checkInteger, checkPath } from './arguments.ts';
import { typed, typedAsync } from './errors.ts';
import { mapTypeName } from './kernel-types.ts';
import type { MapHandle } from './loader.ts';
import { addon } from './loader.ts';
import type { MapInfo } from './types.ts';

export interface MapEntry {
  key: Buffer;
  /** Of a per-CPU map the values of all possible CPUs, each rounded up to 8 bytes: `cpuValues` takes them apart. */
  value: Buffer;
}

export interface MapDump {
  entries: MapEntry[];
  /** False when the map holds more than was asked for. */
  complete: boolean;
}

/** Of the keys and values of one dump. */
export const MAX_DUMP_BYTES = 256 * 1024 * 1024;

const UPDATE_FLAGS = { any: 0, create: 1, replace: 2 } as const;
const NO_KEY = new Uint8Array(0);

export class BpfMap implements Disposable {
  readonly name: string;
  /** For this package only. */
  readonly handle: MapHandle;

  constructor(handle: MapHandle, name: string) {
    this.handle = handle;
    this.name = name;
  }

  info(): MapInfo {
    const raw = typed(() => addon().mapInfo(this.handle));
    return { ...raw, type: mapTypeName(raw.type) };
  }

  /** Queues and stacks take no key and give their next value; a bloom filter takes the value as key. */
  lookup(key: Uint8Array = NO_KEY): Buffer | undefined {
    return typed(() => addon().mapLookup(this.handle, checkBytes(key, 'A key'), false));
  }

  /** Gives the value and removes it: what a queue's pop is. */
  take(key: Uint8Array = NO_KEY): Buffer | undefined {
    return typed(() => addon().mapLookup(this.handle, checkBytes(key, 'A key'), true));
  }

  update(key: Uint8Array, value: Uint8Array, mode: 'any' | 'create' | 'replace' = 'any'): void {
    typed(() =>
      addon().mapUpdate(this.handle, checkBytes(key, 'A key'), checkBytes(value, 'A value'), UPDATE_FLAGS[mode]),
    );
  }

  /** False when there was no such key. */
  delete(key: Uint8Array): boolean {
    return typed(() => addon().mapDelete(this.handle, checkBytes(key, 'A key')));
  }

  /** At most `limit` entries, and of these at most `maxBytes`, read off the main thread. What changes meanwhile may be there twice or not
   *  at all. */
  async dump(limit = 10_000, maxBytes = MAX_DUMP_BYTES): Promise<MapDump> {
    checkInteger(limit, 1, 10_000_000, 'limit');
    checkInteger(maxBytes, 1, MAX_DUMP_BYTES, 'maxBytes');
    const { keySize, elementBytes } = typed(() => addon().mapInfo(this.handle));
    const { count, complete, keys, values } = await typedAsync(async () =>
      addon().mapDump(this.handle, limit, maxBytes),
    );
    const entries = Array.from({ length: count }, (_, at) => ({
      key: keys.subarray(at * keySize, (at + 1) * keySize),
      value: values.subarray(at * elementBytes, (at + 1) * elementBytes),
    }));
    return { entries, complete };
  }

  /** A dump that counts only: it takes no more memory for a large map than for a small one. */
  async count(limit = 1_000_000): Promise<{ count: number; complete: boolean }> {
    checkInteger(limit, 1, 10_000_000, 'limit');
    const { count, complete } = await typedAsync(async () => addon().mapDump(this.handle, limit, 0));
    return { count, complete };
  }

  /** From now on programs may write it, user space may not. */
  freeze(): void {
    typed(() => addon().mapFreeze(this.handle));
  }

  pin(path: string): void {
    checkPath(path, 'A pin');
    typed(() => addon().pin(this.handle, path));
  }

  [Symbol.dispose](): void {
    addon().close(this.handle);
  }
}

/** The values of a per-CPU element, one for each possible CPU. */
export const cpuValues = (value: Buffer, { cpus, valueSize }: Pick<MapInfo, 'cpus' | 'valueSize'>): Buffer[] => {
  const each = Math.ceil(valueSize / 8) * 8;
  return Array.from({ length: cpus }, (_, cpu) => value.subarray(cpu * each, cpu * each + valueSize));
};

const named = (handle: MapHandle): BpfMap => new BpfMap(handle, typed(() => addon().mapInfo(handle)).name);

/** Opens a pinned map; bpf.not_found without one. */
export const openMap = (path: string): BpfMap => named(typed(() => addon().openPin('map', checkPath(path, 'A pin'))));

export const mapById = (id: number): BpfMap =>
  named(typed(() => addon().openId('map', checkInteger(id, 1, 2 ** 32 - 1, 'An id'))));
