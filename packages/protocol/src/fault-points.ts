import { appendFileSync } from 'node:fs';

/** Named points at which a process can be made to die, for the crash-point tests. Commits and sends pass their names through
 *  `at`, so the points enumerate themselves: a first run with AEGIS_CRASH_TRACE=<file> records each name as it is passed, and
 *  one run per recorded name with AEGIS_CRASH_AT=<name>#<nth time> kills the process there as `kill -9` would. Without either
 *  variable `at` does nothing. */
export interface FaultPoints {
  at(name: string): void;
}

export const noFaultPoints: FaultPoints = { at: () => undefined };

export const faultPointsFrom = (env: Readonly<Record<string, string | undefined>>): FaultPoints => {
  const trace = env.AEGIS_CRASH_TRACE;
  const target = env.AEGIS_CRASH_AT;
  if (!trace && !target) return noFaultPoints;
  const passed = new Map<string, number>();
  return {
    at: (name) => {
      const nth = (passed.get(name) ?? 0) + 1;
      passed.set(name, nth);
      if (trace) appendFileSync(trace, `${name}#${nth}\n`);
      if (target === `${name}#${nth}`) process.kill(process.pid, 'SIGKILL');
    },
  };
};
