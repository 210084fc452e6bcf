import * as z from 'zod/mini';
import { ArtifactName } from '../artifacts/manifest.ts';
import { AegisError } from '../errors.ts';
import { type CommandType, commandType, type NodeTools, type ProcessPlan, TimeLimits } from './process-plan.ts';

/** artifacts.*: what an artifact's programs have put into maps and ring buffers on a node and how much they run, read there by the node's own `aegis daemon`,
 *  which opens the pins and decodes by BTF. Read-only; always JSON, so that what reads it need not know who does. */

const MapName = z.string().check(z.regex(/^[A-Za-z_.][A-Za-z0-9_.]{0,127}$/, "not a map's name"));
const MAX_ENTRIES = 1_000_000;
const MAX_SECONDS = 3600;

const plan = (
  argv: string[],
  { timeout_sec, grace_sec }: { timeout_sec: number; grace_sec: number },
  tools: NodeTools,
) => {
  if (tools.aegis === null)
    throw new AegisError(
      'commands.unsupported_type',
      "This node's daemon does not find the 'aegis' that belongs to it, and so cannot start it. Install it beside the daemon's bundle.",
    );
  const made: ProcessPlan = {
    argv: [...tools.aegis.launcher, 'daemon', ...argv, '--json', '--data-dir', tools.aegis.dataDir],
    env: {},
    user: null,
    cwd: null,
    umask: null,
    stdin: null,
    timeoutSec: timeout_sec,
    graceSec: grace_sec,
  };
  return made;
};

export const artifactTypes: Readonly<Record<string, CommandType>> = {
  'artifacts.maps': commandType(
    z.strictObject({
      artifact: ArtifactName,
      /** Absent: which maps there are. */
      map: z.optional(MapName),
      /** Entries of a map at most. */
      limit: z.optional(z.int().check(z.minimum(1), z.maximum(MAX_ENTRIES))),
      ...TimeLimits,
    }),
    (p, tools) =>
      plan(
        [
          'maps',
          p.artifact,
          ...(p.map === undefined ? [] : [p.map]),
          ...(p.limit === undefined ? [] : ['--limit', String(p.limit)]),
        ],
        p,
        tools,
      ),
  ),
  'artifacts.events': commandType(
    z.strictObject({ artifact: ArtifactName, map: z.optional(MapName), ...TimeLimits }),
    (p, tools) => plan(['events', p.artifact, ...(p.map === undefined ? [] : ['--map', p.map])], p, tools),
  ),
  'artifacts.measure': commandType(
    z.strictObject({
      /** Absent: all. */
      artifact: z.optional(ArtifactName),
      seconds: z.int().check(z.minimum(1), z.maximum(MAX_SECONDS)),
      ...TimeLimits,
    }),
    (p, tools) =>
      plan(
        ['attachments', ...(p.artifact === undefined ? [] : [p.artifact]), '--measure', String(p.seconds)],
        p,
        tools,
      ),
  ),
};
