import { join } from 'node:path';
import { mapById, openMap } from '@aegis/bpf-loader/maps';
import { openProgram, type Program, programById } from '@aegis/bpf-loader/program';
import * as z from 'zod/mini';
import type { RevisionPaths } from './layout.ts';
import { isThere, readText, removePin } from './pin-folders.ts';

/** A loaded revision as it stands in the bpf file system: the pins of its programs and maps, and the ids they were loaded under. */

export const RevisionFacts = z.object({
  artifact: z.string(),
  version: z.string(),
  /** By pin. */
  programs: z.record(z.string(), z.int()),
  maps: z.record(z.string(), z.int()),
});
export type RevisionFacts = z.infer<typeof RevisionFacts>;

/** Null: not there, or never finished. */
export const readFacts = (paths: RevisionPaths): RevisionFacts | null => {
  try {
    return z.parse(RevisionFacts, JSON.parse(readText(paths.facts)));
  } catch {
    return null; // half of it was written: as good as nothing
  }
};

export interface PinDrift {
  what: 'program_missing' | 'program_replaced' | 'map_missing';
  detail: string;
}

export interface OpenRevision extends Disposable {
  readonly facts: RevisionFacts;
  /** By pin. */
  readonly programs: ReadonlyMap<string, { program: Program; id: number }>;
  readonly drift: readonly PinDrift[];
}

/** Opens what is pinned and pins again what the kernel still holds. Null, with what was found amiss, when something is gone for good. */
export const openRevision = (paths: RevisionPaths): OpenRevision | { lost: PinDrift[] } | null => {
  const facts = readFacts(paths);
  if (!facts) return null;
  const programs = new Map<string, { program: Program; id: number }>();
  const drift: PinDrift[] = [];
  const release = (): void => {
    for (const { program } of programs.values()) program[Symbol.dispose]();
  };
  let lost = false;
  for (const [pin, id] of Object.entries(facts.programs)) {
    const path = join(paths.programs, pin);
    const found = attempt(() => openProgram(path));
    if (found?.id === id) {
      programs.set(pin, { program: found, id });
      continue;
    }
    drift.push(
      found
        ? { what: 'program_replaced', detail: `the pin of program '${pin}' held program ${found.id}, not ${id}` }
        : { what: 'program_missing', detail: `the pin of program '${pin}' was gone` },
    );
    found?.[Symbol.dispose]();
    const again = attempt(() => programById(id));
    if (again) {
      removePin(path);
      again.pin(path);
      programs.set(pin, { program: again, id });
    } else lost = true;
  }
  for (const [pin, id] of Object.entries(facts.maps)) {
    if (mapIdAt(join(paths.maps, pin)) === id) continue;
    drift.push({ what: 'map_missing', detail: `the pin of map '${pin}' was gone` });
    if (!pinMapById(id, join(paths.maps, pin))) lost = true;
  }
  if (lost) {
    release();
    return { lost: drift };
  }
  return { facts, programs, drift, [Symbol.dispose]: release };
};

/** Null: nothing there, or no map. */
export const mapIdAt = (path: string): number | null => {
  if (!isThere(path)) return null;
  using map = attempt(() => openMap(path));
  return map ? map.info().id : null;
};

/** False: the kernel has no such map any more. */
export const pinMapById = (id: number, path: string): boolean => {
  using map = attempt(() => mapById(id));
  if (!map) return false;
  removePin(path);
  map.pin(path);
  return true;
};

const attempt = <T>(open: () => T): T | null => {
  try {
    return open();
  } catch {
    return null; // not there, or not of this kind: either way it is not ours any more
  }
};
