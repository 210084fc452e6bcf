import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A daemon as a process of its own that dies at a named point and is started again, once. */
export interface MortalDaemon extends AsyncDisposable {
  /** Ended by the fault point. */
  died(): boolean;
  /** The points that it passed until then, in order. */
  points(): string[];
}

export const mortalDaemon = (
  home: string,
  flags: Readonly<Record<string, unknown>>,
  crashAt: string | null,
): MortalDaemon => {
  const script = `import { runDaemon } from ${JSON.stringify(new URL('../src/main.ts', import.meta.url).href)};
    process.exitCode = await runDaemon({ flags: ${JSON.stringify(flags)}, env: process.env, json: true });`;
  const trace = join(home, 'trace');
  const start = (env: NodeJS.ProcessEnv) => {
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    return { child, exit: once(child, 'exit') as Promise<[number | null, string | null]> };
  };
  let { child, exit } = start({ AEGIS_CRASH_TRACE: trace, ...(crashAt ? { AEGIS_CRASH_AT: crashAt } : {}) });
  let died = false;
  const again = async (): Promise<void> => {
    const [, signal] = await exit;
    if (signal !== 'SIGKILL') return;
    died = true;
    ({ child, exit } = start({}));
  };
  const followed = again();
  return {
    died: () => died,
    points: () => (existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : []),
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM');
      await Promise.race([followed, exit]);
      child.kill('SIGTERM'); // one that has just taken the place of the other
      await exit;
    },
  };
};

export interface Life {
  died: boolean;
  points: string[];
}

/** Lives once for each point, some at a time since most of a life is waiting. @returns what went wrong, each with its point */
export const brokenAt = async (
  points: readonly string[],
  live: (crashAt: string) => Promise<Life>,
  atOnce = 3,
): Promise<string[]> => {
  const left = [...points];
  const broken: string[] = [];
  const worker = async (): Promise<void> => {
    for (let point = left.shift(); point; point = left.shift()) {
      try {
        const { died } = await live(point);
        if (!died && point.endsWith('#1')) broken.push(`${point}: was not passed`);
      } catch (error) {
        broken.push(`${point}: ${error}`);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return broken;
};
