import { mapById } from '@aegis/bpf-loader/maps';
import type { Program } from '@aegis/bpf-loader/program';
import type { LinkInfo } from '@aegis/bpf-loader/types';
import type { AttachmentReport, MapReport } from '@aegis/protocol/artifacts/status';
import type { Clock } from '../../platform/clock.ts';
import { describePoint, type Wanted } from './attachment.ts';
import type { Waiting } from './resolve.ts';

/** What is told of attachments and maps. */

/** Pins carry the object's digest before the name, where there are several objects. */
export const plainName = (pin: string): string => pin.replace(/^[0-9a-f]{16}-/, '');

export const attachedReport = (
  wanted: Wanted,
  link: Pick<LinkInfo, 'id'> | null,
  info: ReturnType<Program['info']>,
): AttachmentReport => {
  const { point, program } = wanted;
  return {
    program: program.name,
    hook: describePoint(point).slice(0, 1024),
    state: 'attached',
    ...('interface' in point ? { interface: point.interface } : {}),
    ...(link ? { link_id: link.id } : {}),
    program_id: info.id,
    program_tag: info.tag,
    run_count: info.runCount,
    run_time_ns: info.runTimeNs,
  };
};

export const waitingReport = ({ program, hook, reason }: Waiting): AttachmentReport => ({
  program,
  hook: hook.slice(0, 1024),
  state: 'waiting',
  reason: reason.slice(0, 1024),
});

/** Types whose entries come and go. An array is always full, a ring has no entries. */
const COUNTED = /^(lru_)?(percpu_)?hash$|^(hash_of_maps|lpm_trie|sockhash|devmap_hash)$/;
const COUNT_LIMIT = 65_536;
const COUNT_INTERVAL_MS = 10_000;
/** Of maps that are long gone, too: then all are counted anew. */
const MOST_COUNTS = 4096;

interface Count {
  at: number;
  entries: number | null;
}

/** Fill of maps: counted off the main thread, at most every ten seconds each, and told as it was last found. */
export const mapReports = (clock: Clock) => {
  const counts = new Map<number, Count>();
  let counting: Promise<void> = Promise.resolve();

  const recount = (id: number): Promise<void> => {
    if (counts.size > MOST_COUNTS) counts.clear();
    counts.set(id, { at: clock.monotonic(), entries: counts.get(id)?.entries ?? null });
    counting = counting.then(async () => {
      try {
        using map = mapById(id);
        const { count, complete } = await map.count(COUNT_LIMIT);
        counts.set(id, { at: clock.monotonic(), entries: complete ? count : null });
      } catch {
        counts.delete(id); // gone meanwhile, or of a kind that cannot be walked: told as not counted
      }
    });
    return counting;
  };

  return {
    /** @param wait counts now what was never counted */
    of: async (maps: readonly DescribedMap[], wait: boolean): Promise<MapReport[]> => {
      for (const { id, type } of maps) {
        if (!COUNTED.test(type)) continue;
        const known = counts.get(id);
        if (!known || clock.monotonic() - known.at > COUNT_INTERVAL_MS) {
          const done = recount(id);
          if (wait) await done;
        }
      }
      return maps.map(({ name, id, type, maxEntries }) => ({
        name,
        type,
        map_id: id,
        max_entries: maxEntries,
        entries: counts.get(id)?.entries ?? null,
      }));
    },
  };
};

export interface DescribedMap {
  name: string;
  pin: string;
  id: number;
  type: string;
  maxEntries: number;
}

export const describeMaps = (maps: Readonly<Record<string, number>>): DescribedMap[] =>
  Object.entries(maps)
    .map(([pin, id]) => {
      using map = mapById(id);
      const { type, maxEntries } = map.info();
      return { name: plainName(pin), pin, id, type, maxEntries };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
