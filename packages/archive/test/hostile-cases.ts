import type { HostileCase } from './hostile-case.ts';
import { HOSTILE_FRAMES } from './hostile-frames.ts';
import { HOSTILE_MANIFESTS } from './hostile-manifests.ts';
import { HOSTILE_TARS } from './hostile-tars.ts';

/** Every bundle that is refused for what it is, whoever signed it. */
export const HOSTILE_CASES: readonly HostileCase[] = [...HOSTILE_FRAMES, ...HOSTILE_TARS, ...HOSTILE_MANIFESTS];
