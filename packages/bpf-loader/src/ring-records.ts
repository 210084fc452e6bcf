import type { Btf } from './btf.ts';
import { BtfError } from './btf-types.ts';
import { hexText } from './network-addresses.ts';
import { type DecodeOptions, decode, type Value } from './values.ts';

/** Records of a ring buffer by the type that the program's source names; as hex where it names none.
 *  A ring buffer's declaration has no value type. The source says it in one of these ways, looked for in this order:
 *  - a declaration tag: `} events SEC(".maps") __attribute__((btf_decl_tag("record:struct event")));`
 *  - a struct named as the map, or as the map without its plural s (`events` → `struct event`);
 *  - a struct named after the map, as `struct events_record` or `struct events_event`. */

const TAG = 'record:';

/** @returns the type's id, or null where the source names none
 *  @throws BtfError when a tag names a type that is not there */
export const recordType = (btf: Btf, map: string): number | null => {
  const variable = btf.variableByName(map);
  const tag = variable === null ? undefined : btf.tagsOf(variable).find((one) => one.startsWith(TAG));
  if (tag !== undefined) return namedType(btf, tag.slice(TAG.length).trim());
  for (const name of [map, map.replace(/s$/, ''), `${map}_record`, `${map}_event`]) {
    const found = btf.typeByName(`struct ${name}`);
    if (found !== null) return found;
  }
  return null;
};

/** @throws BtfError */
export const namedType = (btf: Btf, name: string): number => {
  const found = btf.typeByName(name);
  if (found === null) throw new BtfError(`there is no type '${name}'`);
  return found;
};

/** A decoder of one map's records. One that is shorter than its type comes as hex: a program may write several kinds of records
 *  into one buffer. */
export const ringRecords = (btf: Btf | null, typeId: number | null, options: DecodeOptions = {}) => {
  const size = btf && typeId !== null ? btf.sizeOf(typeId) : 0;
  return (record: Uint8Array): Value =>
    btf && typeId !== null && record.length >= size ? decode(btf, typeId, record, options) : hexText(record);
};
