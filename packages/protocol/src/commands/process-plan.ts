import * as z from 'zod/mini';
import { DEFAULTS } from './submission.ts';

/** What a command becomes on the node: one process, by argument vector. */
export interface ProcessPlan {
  argv: string[];
  /** Added to the clean environment that the daemon makes. */
  env: Readonly<Record<string, string>>;
  /** Name or uid; null: the daemon's own user. */
  user: string | null;
  cwd: string | null;
  /** Octal digits. */
  umask: string | null;
  stdin: Buffer | null;
  timeoutSec: number;
  graceSec: number;
}

/** What the node has found on itself. */
export interface NodeTools {
  packageManager: 'apt' | 'dnf' | null;
  /** `['docker', 'compose']` (the plugin) or `['docker-compose']`. */
  compose: readonly string[];
  /** How this very program is started, and the daemon's data directory; null where it was not found. */
  aegis: { launcher: readonly string[]; dataDir: string } | null;
}

export const TimeLimits = {
  /** 0 = none. */
  timeout_sec: z._default(z.number().check(z.minimum(0), z.maximum(30 * 24 * 3600)), DEFAULTS.timeoutSec),
  grace_sec: z._default(z.number().check(z.minimum(0), z.maximum(600)), DEFAULTS.graceSec),
};

export interface CommandType {
  readonly payload: z.ZodMiniType;
  plan(payload: unknown, tools: NodeTools): ProcessPlan;
}

/** Ties a payload's schema to its plan; `plan` is only ever called with what the schema returned. */
export const commandType = <S extends z.ZodMiniType>(
  payload: S,
  plan: (payload: z.infer<S>, tools: NodeTools) => ProcessPlan,
): CommandType => ({ payload, plan: (value, tools) => plan(value as z.infer<S>, tools) });
