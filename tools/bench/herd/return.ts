import type { Fleet } from '../../../test/fleet/fleet.ts';
import { operatorOf, wallClockMs } from '../bench-fleet.ts';
import type { Herd } from './herd-process.ts';
import type { Attempt } from './node.ts';

/** A server that is killed and started again while a herd is connected, and what that does to nodes and operators. */
export interface Returned {
  /** From the server's ready line until the last node was back. */
  backMs: number;
  /** Attempts that reached the server. */
  attempts: number;
  /** Of these, told to come later before a handshake began. */
  paced: number;
  /** Neither connected nor told to come later. */
  broken: Attempt[];
  /** Their share in the worst second that saw a spike: in which a fiftieth of the herd or more was answered. */
  worstBroken: number;
  submitMs: number[];
}

const SECOND_MS = 1000;
const EVERY_MS = 100;

export const killedAndBack = async (
  fleet: Pick<Fleet, 'server' | 'url' | 'token'>,
  herd: Herd,
  nodes: number,
  deadlineMs: number,
): Promise<Returned> => {
  await herd.tell(); // what was before
  await fleet.server.kill9();
  await fleet.server.start();
  const readyAt = wallClockMs();
  const operator = operatorOf(fleet.url, fleet.token);
  const submitMs: number[] = [];
  let over = false;
  const submitting = (async () => {
    while (!over) {
      const before = performance.now();
      await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets: 'herd-0' });
      submitMs.push(performance.now() - before);
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  })();
  try {
    await Promise.race([herd.untilUp(nodes, deadlineMs), submitting]);
  } finally {
    over = true;
    await submitting.finally(() => operator.close());
  }
  const { attempts: all } = await herd.tell();
  const attempts = all.filter(({ outcome, endedAtMs }) => outcome !== 'unreached' && endedAtMs >= readyAt);
  const broken = attempts.filter(({ outcome }) => outcome === 'failed');
  return {
    backMs: Math.max(...attempts.map(({ endedAtMs }) => endedAtMs)) - readyAt,
    attempts: attempts.length,
    paced: attempts.filter(({ outcome }) => outcome === 'paced').length,
    broken,
    worstBroken: worstShare(broken, attempts, nodes / 50),
    submitMs,
  };
};

/** @param least a second with fewer is no spike */
const worstShare = (some: readonly Attempt[], all: readonly Attempt[], least: number): number => {
  const perSecond = (of: readonly Attempt[]): Map<number, number> => {
    const counts = new Map<number, number>();
    for (const { endedAtMs } of of) {
      const second = Math.floor(endedAtMs / SECOND_MS);
      counts.set(second, (counts.get(second) ?? 0) + 1);
    }
    return counts;
  };
  const part = perSecond(some);
  const spikes = [...perSecond(all)].filter(([, count]) => count >= least);
  return Math.max(0, ...spikes.map(([second, count]) => (part.get(second) ?? 0) / count));
};
