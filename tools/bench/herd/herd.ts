import type { FromHerd, ToHerd } from './herd-process.ts';
import { type Attempt, runHerdNode } from './node.ts';

/** A process with some thousand simulated nodes. Started by herd-process.ts and told what to do over IPC. */

const say = (message: FromHerd): void => void process.send?.(message);

const TICK_MS = 1000;
const ticks = new Set<() => void>();
setInterval(() => {
  for (const tick of ticks) tick();
}, TICK_MS);

let stopping = new AbortController();
let running: Promise<void>[] = [];
let up = 0;
let attempts: Attempt[] = [];
let stored: { commandId: string; atMs: number }[] = [];

const start = async ({ nodes, server, polls, perSec }: Extract<ToHerd, { do: 'start' }>): Promise<void> => {
  const { signal } = stopping;
  const beganAt = performance.now();
  for (const [at, nth] of nodes.entries()) {
    const waitMs = beganAt + (at * 1000) / perSec - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    let wasUp = false;
    const changed = (isUp: boolean): void => {
      up += Number(isUp) - Number(wasUp);
      wasUp = isUp;
    };
    const events = {
      attempt: (attempt: Attempt) => attempts.push(attempt),
      changed,
      stored: (commandId: string, atMs: number) => stored.push({ commandId, atMs }),
    };
    running.push(runHerdNode(nth, { server, polls, events, signal, ticks }));
  }
};

const obey = async (message: ToHerd): Promise<void> => {
  if (message.do === 'start') {
    await start(message);
    say({ did: 'start' });
  } else if (message.do === 'tell') {
    say({ did: 'tell', up, attempts, stored });
    attempts = [];
    stored = [];
  } else {
    stopping.abort();
    await Promise.all(running);
    running = [];
    stopping = new AbortController();
    say({ did: 'stop' });
  }
};

process.on('message', (message: ToHerd) => {
  obey(message).catch((error: unknown) => say({ did: 'fail', reason: String(error) }));
});
process.on('disconnect', () => process.exit());
