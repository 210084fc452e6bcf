import { facts, table } from '../ui/table.ts';

/** What `aegis daemon maps --json` prints, for people. */

export interface MapSummary {
  name: string;
  type: string;
  id: number;
  key_type: string | null;
  value_type: string | null;
  key_bytes: number;
  value_bytes: number;
  max_entries: number;
  /** Null where counting means nothing (ring buffers) or costs too much. */
  entries: number | null;
}
export interface MapContents {
  artifact: string;
  map: MapSummary;
  entries: readonly { key: unknown; value: unknown }[];
  /** More are there than --limit lets through. */
  truncated: boolean;
}
export interface MapList {
  artifact: string;
  maps: readonly MapSummary[];
}

const typeText = (type: string | null, bytes: number): string => type ?? (bytes === 0 ? '-' : `${bytes} bytes`);

export const mapListText = ({ maps }: MapList, width: number | undefined): string =>
  table(
    ['MAP', 'TYPE', 'KEY', 'VALUE', 'ENTRIES', 'MAX ENTRIES'],
    maps.map((map) => [
      map.name,
      map.type,
      typeText(map.key_type, map.key_bytes),
      typeText(map.value_type, map.value_bytes),
      map.entries === null ? '-' : String(map.entries),
      String(map.max_entries),
    ]),
    width,
  );

const shown = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

export const mapContentsText = ({ map, entries }: MapContents, width: number | undefined): string =>
  facts([
    ['map', `${map.name} (${map.type})`],
    ['key', typeText(map.key_type, map.key_bytes)],
    ['value', typeText(map.value_type, map.value_bytes)],
  ]) +
  `\n${table(
    ['KEY', 'VALUE'],
    entries.map(({ key, value }) => [shown(key), shown(value)]),
    width,
  )}`;
