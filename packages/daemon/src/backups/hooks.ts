import type { Hook } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import { HOOK_PATH, type HookEnd, HookNotStarted, runHookProcess } from '../platform/hook-process.ts';

/** Commands of a configuration around its run. */

export interface HookOutcome extends HookEnd {
  argv: readonly string[];
  /** The end of what it wrote to stdout and stderr. */
  output: string;
}

const OUTPUT_CHARS = 2000;

export interface HookContext {
  env: Readonly<Record<string, string>>;
  signal: AbortSignal;
  /** Where it is noted while it runs: a daemon that comes back ends what it left. */
  notes: string;
}

/** @throws AegisError backups.hook_failed when it cannot be started or does not end well; the signal's reason when that ended it */
export const runHook = async (hook: Hook, context: HookContext): Promise<HookOutcome> => {
  const { signal } = context;
  signal.throwIfAborted();
  const outcome = await execute(hook, context);
  signal.throwIfAborted();
  const { exit, timedOut, signal: by, output } = outcome;
  if (exit === 0 && !timedOut) return outcome;
  const how = timedOut
    ? `was stopped after ${hook.timeout_sec} s`
    : exit === null
      ? `was ended by ${by}`
      : `exited with ${exit}`;
  const said = output.trim().split('\n').at(-1) ?? '';
  throw new AegisError(
    'backups.hook_failed',
    `The command '${hook.argv[0]}' ${how}${said === '' ? '' : `: ${said.slice(0, 500)}`}. Run it by hand on this node to see why.`,
  );
};

const execute = async (hook: Hook, { env, ...context }: HookContext): Promise<HookOutcome> => {
  let output = '';
  const taking = () => {
    const decoder = new TextDecoder();
    return (chunk: Buffer): void => {
      output = (output + decoder.decode(chunk, { stream: true })).slice(-OUTPUT_CHARS);
    };
  };
  try {
    const end = await runHookProcess(hook, {
      ...context,
      env: { PATH: process.env.PATH ?? HOOK_PATH, LANG: process.env.LANG ?? 'C.UTF-8', ...env },
      onStdout: taking(),
      onStderr: taking(),
    });
    return { argv: hook.argv, ...end, output };
  } catch (error) {
    if (!(error instanceof HookNotStarted)) throw error;
    throw new AegisError('backups.hook_failed', error.message, { cause: error.cause });
  }
};
