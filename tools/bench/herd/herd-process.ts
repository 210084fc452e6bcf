import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { waitFor } from '../../../test/faults/wait.ts';
import type { HerdServer } from './identity.ts';
import type { Attempt } from './node.ts';

/** The herd as its owner sees it: nodes by number, in one process or a few, beside the server and not in the owner's own loop. */

export type ToHerd =
  | { do: 'start'; nodes: number[]; server: HerdServer; polls: boolean; perSec: number }
  | { do: 'tell' }
  | { do: 'stop' };
export interface Told {
  did: 'tell';
  up: number;
  /** Since the last time. */
  attempts: Attempt[];
  stored: { commandId: string; atMs: number }[];
}
export type FromHerd = { did: 'start' } | Told | { did: 'stop' } | { did: 'fail'; reason: string };

export interface Herd extends AsyncDisposable {
  /** Lets the nodes from number `from` on connect, so many a second, and stay. Resolves when all have begun. */
  start(from: number, count: number, options?: { polls?: boolean; perSec?: number }): Promise<void>;
  tell(): Promise<Omit<Told, 'did'>>;
  /** Resolves when so many are connected. */
  untilUp(count: number, deadlineMs: number): Promise<void>;
  /** All leave; others may start. */
  stop(): Promise<void>;
  pids: readonly number[];
}

const CONNECTED_A_SECOND = 400;

export const startHerd = (server: HerdServer, processes = 1): Herd => {
  const children = Array.from({ length: processes }, () =>
    fork(fileURLToPath(new URL('./herd.ts', import.meta.url)), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }),
  );
  const kept: Omit<Told, 'did'> = { up: 0, attempts: [], stored: [] };
  const look = async (): Promise<void> => {
    kept.up = 0;
    for (const answer of await Promise.all(children.map((child) => asked(child, { do: 'tell' })))) {
      if (answer.did !== 'tell') continue;
      kept.up += answer.up;
      kept.attempts.push(...answer.attempts);
      kept.stored.push(...answer.stored);
    }
  };
  return {
    start: async (from, count, { polls = true, perSec = CONNECTED_A_SECOND } = {}) => {
      const all = Array.from({ length: count }, (_, at) => from + at);
      await Promise.all(
        children.map((child, at) => {
          const nodes = all.filter((nth) => nth % processes === at);
          return asked(child, { do: 'start', nodes, server, polls, perSec: perSec / processes });
        }),
      );
    },
    tell: async () => {
      await look();
      return { up: kept.up, attempts: kept.attempts.splice(0), stored: kept.stored.splice(0) };
    },
    untilUp: (count, deadlineMs) =>
      waitFor(
        `${count} nodes of the herd to be connected`,
        async () => {
          await look();
          return kept.up >= count;
        },
        deadlineMs,
        () => `${kept.up} are`,
      ),
    stop: async () => {
      await Promise.all(children.map((child) => asked(child, { do: 'stop' })));
    },
    pids: children.map(({ pid }) => pid ?? 0),
    [Symbol.asyncDispose]: async () => {
      await Promise.all(
        children.map(async (child) => {
          if (child.exitCode !== null || child.signalCode !== null) return;
          const exited = new Promise((resolve) => child.once('exit', resolve));
          child.kill('SIGKILL');
          await exited;
        }),
      );
    },
  };
};

/** One at a time for each child: answers come in the order of what was asked. */
const asked = (child: ChildProcess, message: ToHerd): Promise<FromHerd> =>
  new Promise((resolve, reject) => {
    const answered = (answer: FromHerd): void => {
      child.off('exit', died);
      if (answer.did === 'fail') reject(new Error(`a process of the herd failed: ${answer.reason}`));
      else resolve(answer);
    };
    const died = (code: number | null): void => reject(new Error(`a process of the herd ended with ${code}`));
    child.once('message', answered);
    child.once('exit', died);
    child.send(message);
  });
