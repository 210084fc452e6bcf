import * as z from 'zod/mini';
import { AbsolutePath, ConfigName } from '../backups/config.ts';
import { AegisError } from '../errors.ts';
import { type CommandType, commandType, type NodeTools, type ProcessPlan, TimeLimits } from './process-plan.ts';

/** backups.*: a run or a restore that an operator asks a node for. Each is a process of the node's own `aegis`, which asks the daemon over
 *  its control socket and writes NDJSON; when it ends, what it asked for ends too. */

const MAX_SEALED_CHARS = 64 * 1024;

const plan = (
  argv: string[],
  { timeout_sec, grace_sec }: { timeout_sec: number; grace_sec: number },
  tools: NodeTools,
  stdin: string | undefined = undefined,
): ProcessPlan => {
  if (tools.aegis === null)
    throw new AegisError(
      'commands.unsupported_type',
      "This node's daemon does not find the 'aegis' that belongs to it, and so cannot start it. Install it beside the daemon's bundle.",
    );
  return {
    argv: [...tools.aegis.launcher, 'backups', ...argv, '--json', '--data-dir', tools.aegis.dataDir],
    env: {},
    user: null,
    cwd: null,
    umask: null,
    stdin: stdin === undefined ? null : Buffer.from(stdin, 'utf8'),
    timeoutSec: timeout_sec,
    graceSec: grace_sec,
  };
};

const Glob = z.string().check(z.minLength(1), z.maxLength(4096));
export const RestorePayload = z.strictObject({
  run_id: z.uuid(),
  target: AbsolutePath,
  paths: z._default(z.array(Glob).check(z.maxLength(256)), []),
  overwrite: z._default(z.enum(['never', 'if-newer', 'always']), 'never'),
  delete: z._default(z.boolean(), false),
  dry_run: z._default(z.boolean(), false),
  /** Owners, device files; and setuid bits: only when asked for. */
  owners: z._default(z.boolean(), false),
  setuid: z._default(z.boolean(), false),
  /** age identities sealed to the node's key (as RunGrant's credentials are), base64: the server carries what it cannot read. */
  sealed_identities: z.optional(z.string().check(z.maxLength(MAX_SEALED_CHARS))),
  /** Key ids of nodes whose runs may be restored here beside the node's own. */
  node_keys: z._default(z.array(z.string().check(z.regex(/^[0-9a-f]{64}$/))).check(z.maxLength(16)), []),
  ...TimeLimits,
});
export type RestorePayload = z.infer<typeof RestorePayload>;

export const backupTypes: Readonly<Record<string, CommandType>> = {
  'backups.run': commandType(z.strictObject({ config: ConfigName, ...TimeLimits }), (p, tools) =>
    plan(['run', '--once', p.config], p, tools),
  ),
  'backups.restore': commandType(RestorePayload, (p, tools) =>
    plan(
      [
        'restore',
        '--on-this-node',
        p.run_id,
        '--target',
        p.target,
        '--overwrite',
        p.overwrite,
        ...p.paths.flatMap((glob) => ['--path', glob]),
        ...(p.delete ? ['--delete'] : []),
        ...(p.dry_run ? ['--dry-run'] : []),
        ...(p.owners ? ['--owners'] : []),
        ...(p.setuid ? ['--setuid'] : []),
        ...p.node_keys.flatMap((key) => ['--node-key', key]),
        ...(p.sealed_identities === undefined ? [] : ['--sealed-identities', '-']),
      ],
      p,
      tools,
      p.sealed_identities,
    ),
  ),
};
