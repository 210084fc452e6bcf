import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { BackedUp, BackupPlan } from './simulated-backups.ts';

/** Simulated nodes in processes of their own, so that they take their turn on the other core and not in the bench's own loop. */

export type ToSimulator =
  | { do: 'enrol'; url: string; joinToken: string; names: string[] }
  | { do: 'work'; perNode: number }
  | { do: 'attach'; artifact: string }
  | { do: 'back-up'; plan: BackupPlan };
export interface Worked {
  did: 'work';
  finishedAtMs: number;
  polls: number;
  reports: number;
  cpuMs: number;
}
export interface Attached {
  did: 'attach';
  finishedAtMs: number;
}
export interface BackedUpAll {
  did: 'back-up';
  runs: BackedUp[];
}
export type FromSimulator = { did: 'enrol' } | Worked | Attached | BackedUpAll | { did: 'fail'; reason: string };

export interface Simulators extends AsyncDisposable {
  /** Every node works until it has ended `perNode` executions; one answer per process. */
  work(perNode: number): Promise<Worked[]>;
  /** Every node waits for the artifact and reports it attached. @returns when the last one had its answer, on the wall clock */
  attach(artifact: string): Promise<number>;
  /** Every node makes one backup. */
  backUp(plan: BackupPlan): Promise<BackedUp[]>;
}

export const startSimulators = async (
  url: string,
  joinToken: string,
  names: readonly string[],
  processes: number,
): Promise<Simulators> => {
  const children = Array.from({ length: processes }, () =>
    fork(fileURLToPath(new URL('./simulator.ts', import.meta.url)), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }),
  );
  const end = async (): Promise<void> => {
    await Promise.all(
      children.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = new Promise((resolve) => child.once('exit', resolve));
        child.kill();
        await exited;
      }),
    );
  };
  try {
    await Promise.all(
      children.map((child, at) =>
        asked(child, { do: 'enrol', url, joinToken, names: names.filter((_, index) => index % processes === at) }),
      ),
    );
  } catch (error) {
    await end();
    throw error;
  }
  return {
    work: async (perNode) => {
      const answers = await Promise.all(children.map((child) => asked(child, { do: 'work', perNode })));
      return answers.flatMap((one) => (one.did === 'work' ? [one] : []));
    },
    attach: async (artifact) => {
      const answers = await Promise.all(children.map((child) => asked(child, { do: 'attach', artifact })));
      return Math.max(...answers.map((one) => (one.did === 'attach' ? one.finishedAtMs : Number.NaN)));
    },
    backUp: async (plan) => {
      const answers = await Promise.all(children.map((child) => asked(child, { do: 'back-up', plan })));
      return answers.flatMap((one) => (one.did === 'back-up' ? one.runs : []));
    },
    [Symbol.asyncDispose]: end,
  };
};

const asked = (child: ChildProcess, message: ToSimulator): Promise<FromSimulator> =>
  new Promise((resolve, reject) => {
    const answered = (answer: FromSimulator): void => {
      child.off('exit', died);
      if (answer.did === 'fail') reject(new Error(`a simulator failed: ${answer.reason}`));
      else resolve(answer);
    };
    const died = (code: number | null): void => reject(new Error(`a simulator ended with ${code}`));
    child.once('message', answered);
    child.once('exit', died);
    child.send(message);
  });
