import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';

/** Replaces this process by a server or daemon: same pid and descriptors, but without oclif and with Node flags that keep it small.
 *  What the flags said travels in one variable, not on the new command line: a join token must not be readable by every user. */

export const START_VARIABLE = 'AEGIS_START';

export interface StartOrder {
  flags: Readonly<Record<string, unknown>>;
  json: boolean;
}

/** Figures: packages/cli/README.md. A young generation of 2 MiB and one helper thread cost a daemon nothing that it would notice; one malloc
 *  arena instead of one for each thread gives memory back. The server's young generation is 4 MiB: with 16 thousands of idle connections each
 *  hold 13 KiB more, and an execution costs some percent less (docs/performance.md). glibc would learn from its megabytes of output to keep what is
 *  freed, so they are told to go back to the kernel. */
const NODE_FLAGS: Readonly<Record<'server' | 'daemon', readonly string[]>> = {
  server: ['--max-semi-space-size=4'],
  daemon: ['--max-semi-space-size=2', '--v8-pool-size=1'],
};
const VARIABLES: Readonly<Record<'server' | 'daemon', Readonly<Record<string, string>>>> = {
  server: { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '131072' },
  daemon: { MALLOC_ARENA_MAX: '1' },
};

/** @throws AegisError where the process cannot be replaced */
export const startBundle = (bundle: 'server' | 'daemon', order: StartOrder, env: NodeJS.ProcessEnv): never => {
  const script = join(__dirname, `${bundle}.cjs`);
  if (typeof process.execve !== 'function')
    throw new AegisError(
      'http.internal',
      'This Node.js cannot replace a process image (process.execve); it needs version 24 on Linux or macOS.',
    );
  const args = [process.execPath, ...NODE_FLAGS[bundle], '--disable-warning=ExperimentalWarning', script];
  return process.execve(process.execPath, args, {
    ...VARIABLES[bundle],
    ...env,
    [START_VARIABLE]: JSON.stringify(order),
  });
};

/** What a bundle was started with. Takes the variable out of the environment, so that nothing started from there inherits it. */
export const takeStartOrder = (env: NodeJS.ProcessEnv): StartOrder => {
  const text = env[START_VARIABLE] ?? '{"flags":{},"json":false}';
  delete env[START_VARIABLE];
  return JSON.parse(text) as StartOrder;
};
