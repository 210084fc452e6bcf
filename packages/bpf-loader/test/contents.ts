/** What is in the maps of a loaded object, decoded by the BTF that the kernel holds for them. */
import { parseBtf } from '../src/btf.ts';
import { btfById } from '../src/kernel.ts';
import type { BpfMap } from '../src/maps.ts';
import type { LoadedObject } from '../src/object.ts';
import { type MapCodec, mapCodec, type Value } from '../src/values.ts';

export const codecOf = (map: BpfMap): MapCodec => {
  const info = map.info();
  return mapCodec(info, info.btfId > 0 ? parseBtf(btfById(info.btfId)) : null);
};

/** All entries, in the map's order. */
export const contents = async (object: LoadedObject, name: string): Promise<[Value, Value][]> => {
  const map = object.map(name);
  const codec = codecOf(map);
  const { entries, complete } = await map.dump();
  if (!complete) throw new Error(`${name} holds more than was read`);
  return entries.map(({ key, value }) => [codec.key(key), codec.value(value)]);
};

/** Null where the key is not there. */
export const valueAt = (object: LoadedObject, name: string, key: unknown): Value => {
  const codec = codecOf(object.map(name));
  const found = object.map(name).lookup(codec.keyBytes(key));
  return found === undefined ? null : codec.value(found);
};

/** The globals of a section, by name. */
export const globalsIn = (object: LoadedObject, section: string): Value => valueAt(object, section, 0);

/** The counters that are not zero, by slot. */
export const counted = async (object: LoadedObject): Promise<Record<string, Value>> =>
  Object.fromEntries((await contents(object, 'counters')).filter(([, value]) => value !== 0));
