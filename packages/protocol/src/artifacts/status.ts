import * as z from 'zod/mini';
import { ArtifactName, ArtifactVersion } from './manifest.ts';

/** What a node reports of an assignment. States as in the architecture: pending → verified → loaded → attached, or failed;
 *  detached after unassignment. */

export const ArtifactState = z.enum(['pending', 'verified', 'loaded', 'attached', 'failed', 'detached']);
export type ArtifactState = z.infer<typeof ArtifactState>;

const Line = z.string().check(z.maxLength(1024));
export const AttachmentReport = z.object({
  program: Line,
  /** For people: `tc egress on eth0`. */
  hook: Line,
  state: z.enum(['attached', 'waiting', 'failed', 'detached']),
  /** Resolved interface; absent for other hooks. */
  interface: z.optional(Line),
  link_id: z.optional(z.int()),
  program_id: z.optional(z.int()),
  program_tag: z.optional(Line),
  /** Zero until BPF statistics are on. */
  run_count: z.optional(z.number()),
  run_time_ns: z.optional(z.number()),
  reason: z.optional(Line),
});
export type AttachmentReport = z.infer<typeof AttachmentReport>;
export const MapReport = z.object({
  name: Line,
  type: Line,
  map_id: z.int(),
  max_entries: z.number(),
  /** Null where counting means nothing (ring buffers) or costs too much. */
  entries: z.nullable(z.number()),
});
export type MapReport = z.infer<typeof MapReport>;
export const DriftReport = z.object({
  at: z.string(),
  /** `link_missing`, `link_detached`, `program_replaced`, `program_missing`, `map_missing`. */
  what: z.string().check(z.maxLength(64)),
  detail: Line,
  repaired: z.boolean(),
});
export type DriftReport = z.infer<typeof DriftReport>;

export const MAX_VERIFIER_LOG_CHARS = 1024 * 1024;
export const StatusReport = z.object({
  name: ArtifactName,
  /** Absent for `detached`. */
  version: z.optional(ArtifactVersion),
  generation: z.int().check(z.positive()),
  state: ArtifactState,
  /** When the node saw it so. Later reports of one generation replace earlier ones. */
  at: z.iso.datetime(),
  attachments: z._default(z.array(AttachmentReport).check(z.maxLength(1024)), []),
  maps: z._default(z.array(MapReport).check(z.maxLength(1024)), []),
  drift: z._default(z.array(DriftReport).check(z.maxLength(32)), []),
  /** Set with `failed`, and with `attached` when a newer version failed and this one was restored. */
  reason: z.optional(
    z.object({
      code: z.string().check(z.maxLength(64)),
      message: z.string().check(z.maxLength(4096)),
      /** The version that failed, when another one runs. */
      version: z.optional(z.string()),
    }),
  ),
  verifier_log: z.optional(z.string().check(z.maxLength(MAX_VERIFIER_LOG_CHARS))),
  kernel: z.optional(Line),
});
export type StatusReport = z.infer<typeof StatusReport>;

/** Which kinds work on a node, as `aegis nodes show` prints it. */
export const KernelReport = z.object({
  release: Line,
  architecture: Line,
  btf: z.boolean(),
  bpffs: z.boolean(),
  cgroup2: z.nullable(Line),
  jit: z.boolean(),
  kinds: z.record(z.string(), z.object({ works: z.boolean(), reason: z.optional(Line), since: z.optional(Line) })),
});
export type KernelReport = z.infer<typeof KernelReport>;
