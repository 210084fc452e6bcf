import type { Btf } from '@aegis/bpf-loader/btf';
import type { BpfMap } from '@aegis/bpf-loader/maps';
import type { MapInfo } from '@aegis/bpf-loader/types';
import type { Value } from '@aegis/bpf-loader/values';
import type { PinnedMap } from '@aegis/daemon/pins';
import { AegisError } from '@aegis/protocol/errors';
import type { NodeFolder } from '../node-folder.ts';
import { loaderRefusal } from './kernel-refusal.ts';
import type { MapContents, MapList, MapSummary } from './map-text.ts';

/** An artifact's maps as they are pinned: what they hold, decoded by the BTF that they or their programs were loaded with. */

export interface EventBatch {
  records: Value[];
  /** That a perf event array had no room for. */
  lost: number;
}

export const mapSight = (folder: NodeFolder) => ({
  maps: (artifact: string): Promise<MapList> =>
    asked(async () => {
      const pinned = await pinnedMaps(folder, artifact);
      const maps: MapSummary[] = [];
      for (const { name, path } of pinned.maps) {
        using map = await openedMap(path);
        maps.push(await summaryOf(name, map));
      }
      return { artifact, maps };
    }),

  contents: (artifact: string, name: string, limit: number): Promise<MapContents> =>
    asked(async () => {
      const { maps: pins } = await pinnedMaps(folder, artifact);
      using map = await openedMap(pinNamed(artifact, pins, name).path);
      const info = map.info();
      if (STREAMS.has(info.type))
        throw new AegisError(
          'artifacts.unsupported',
          `The map '${name}' is a ${info.type}: 'events' reads it, its records cannot be listed.`,
        );
      const { mapCodec } = await import('@aegis/bpf-loader/values');
      const codec = mapCodec(info, await mapBtf(info));
      const { entries, complete } = await map.dump(limit);
      return {
        artifact,
        map: await summaryOf(name, map),
        entries: entries.map(({ key, value }) => ({ key: codec.key(key), value: codec.value(value) })),
        truncated: !complete,
      };
    }),

  /** Until `signal`, or until the artifact is taken off. An upgrade that makes the ring buffer anew is followed. */
  events: (artifact: string, name: string | undefined, signal: AbortSignal): AsyncGenerator<EventBatch> =>
    events(folder, artifact, name, signal),
});

const STREAMS: ReadonlySet<string> = new Set(['ringbuf', 'user_ringbuf', 'perf_event_array']);
/** Their element count is their size. */
const ARRAYS: ReadonlySet<string> = new Set(['array', 'percpu_array']);
const COUNT_LIMIT = 1_000_000;
const LOOK_EVERY_MS = 1000;

const asked = async <T>(work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    throw loaderRefusal(error);
  }
};

/** @throws AegisError nodes.not_enrolled, artifacts.not_here */
const pinnedMaps = async ({ dataDir, bpffs }: NodeFolder, artifact: string) => {
  const { nodePins } = await import('@aegis/daemon/pins');
  const pins = nodePins(dataDir, bpffs);
  const loaded = pins.loaded(artifact);
  if (loaded) return loaded;
  throw new AegisError(
    'artifacts.not_here',
    `Nothing of an artifact '${artifact}' is loaded on ${pins.node}. See 'aegis daemon attachments' there, or 'aegis artifacts status'.`,
  );
};

const pinNamed = (artifact: string, pins: readonly PinnedMap[], name: string): PinnedMap => {
  const found = pins.find((pin) => pin.name === name);
  if (found) return found;
  const known = pins.length === 0 ? 'it has no maps' : `it has ${pins.map((pin) => pin.name).join(', ')}`;
  throw new AegisError('artifacts.not_here', `The artifact '${artifact}' has no map '${name}': ${known}.`);
};

const openedMap = async (path: string): Promise<BpfMap> => {
  const { openMap } = await import('@aegis/bpf-loader/maps');
  return openMap(path);
};

const btfOf = async (id: number): Promise<Btf | null> => {
  if (id === 0) return null;
  const [{ btfById }, { parseBtf }] = await Promise.all([
    import('@aegis/bpf-loader/kernel'),
    import('@aegis/bpf-loader/btf'),
  ]);
  return parseBtf(btfById(id));
};
const mapBtf = (info: MapInfo): Promise<Btf | null> => btfOf(info.btfId);

const summaryOf = async (name: string, map: BpfMap): Promise<MapSummary> => {
  const { mapCodec } = await import('@aegis/bpf-loader/values');
  const info = map.info();
  const codec = mapCodec(info, await mapBtf(info));
  return {
    name,
    type: info.type,
    id: info.id,
    key_type: codec.keyType,
    value_type: codec.valueType,
    key_bytes: info.keySize,
    value_bytes: info.valueSize,
    max_entries: info.maxEntries,
    entries: await entriesOf(map, info),
  };
};

const entriesOf = async (map: BpfMap, { type, maxEntries }: MapInfo): Promise<number | null> => {
  if (ARRAYS.has(type)) return maxEntries;
  if (STREAMS.has(type)) return null;
  try {
    const { count, complete } = await map.count(COUNT_LIMIT);
    return complete ? count : null;
  } catch {
    return null; // a kind that cannot be gone through
  }
};

async function* events(
  folder: NodeFolder,
  artifact: string,
  name: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<EventBatch> {
  const { readRecords } = await import('@aegis/bpf-loader/ring-buffer');
  while (!signal.aborted) {
    const ring = await asked(() => openRing(folder, artifact, name));
    using map = ring.map;
    using stream = readRecords(map);
    const stop = (): void => stream.stop();
    signal.addEventListener('abort', stop);
    const watch = setInterval(() => {
      void sameRing(folder, artifact, ring).then((same) => same || stop());
    }, LOOK_EVERY_MS);
    try {
      for await (const { records, lost } of stream) yield { records: records.map(ring.decode), lost };
    } catch (error) {
      throw loaderRefusal(error);
    } finally {
      clearInterval(watch);
      signal.removeEventListener('abort', stop);
    }
    // It was taken off: there is nothing to wait for.
    if (!(await isLoaded(folder, artifact))) return;
  }
}

interface OpenRing {
  map: BpfMap;
  id: number;
  name: string;
  decode(record: Buffer): Value;
}

const openRing = async (folder: NodeFolder, artifact: string, name: string | undefined): Promise<OpenRing> => {
  const { maps: pins, programs } = await pinnedMaps(folder, artifact);
  const rings: (PinnedMap & { type: string })[] = [];
  for (const pin of pins) {
    using map = await openedMap(pin.path);
    const { type } = map.info();
    if (type === 'ringbuf' || type === 'perf_event_array') rings.push({ ...pin, type });
  }
  const names = rings.map((ring) => ring.name).join(', ');
  if (name !== undefined) pinNamed(artifact, pins, name);
  const [only, ...others] = name === undefined ? rings : rings.filter((ring) => ring.name === name);
  if (!only) {
    const what =
      name === undefined ? `The artifact '${artifact}' has no ring buffer` : `The map '${name}' is no ring buffer`;
    throw new AegisError(
      'artifacts.unsupported',
      names === '' || name === undefined ? `${what}: its maps are read with 'maps'.` : `${what}; these are: ${names}.`,
    );
  }
  if (others.length > 0)
    throw new AegisError(
      'cli.usage',
      `The artifact '${artifact}' has several ring buffers: choose one of ${names} with --map.`,
    );
  const map = await openedMap(only.path);
  const info = map.info();
  const { recordType, ringRecords } = await import('@aegis/bpf-loader/ring-records');
  const btf = await programBtf(programs, info.id);
  return { map, id: info.id, name: only.name, decode: ringRecords(btf, btf && recordType(btf, only.name)) };
};

/** A ring buffer has no types of its own: those of a program that writes to it. */
const programBtf = async (programs: readonly string[], mapId: number): Promise<Btf | null> => {
  const { openProgram } = await import('@aegis/bpf-loader/program');
  for (const path of programs) {
    using program = openProgram(path);
    const { mapIds, btfId } = program.info();
    if (btfId !== 0 && mapIds.includes(mapId)) return await btfOf(btfId);
  }
  return null;
};

const sameRing = async (folder: NodeFolder, artifact: string, { id, name }: OpenRing): Promise<boolean> => {
  try {
    const { maps: pins } = await pinnedMaps(folder, artifact);
    const pin = pins.find((one) => one.name === name);
    if (!pin) return false;
    using map = await openedMap(pin.path);
    return map.info().id === id;
  } catch {
    return false; // gone, or being changed at this moment: looked at anew
  }
};

const isLoaded = async (folder: NodeFolder, artifact: string): Promise<boolean> => {
  try {
    await pinnedMaps(folder, artifact);
    return true;
  } catch (error) {
    if (error instanceof AegisError && error.code === 'artifacts.not_here') return false;
    throw error;
  }
};
