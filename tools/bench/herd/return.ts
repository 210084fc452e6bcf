import { waitFor } from '../../../test/faults/wait.ts';
import type { Fleet } from '../../../test/fleet/fleet.ts';
import { operatorOf, wallClockMs } from '../bench-fleet.ts';
import type { Herd } from './herd-process.ts';
import type { Attempt } from './node.ts';

/** A server that is killed and started again while a herd is connected, and what that does to nodes and operators. */
export interface Returned {
  /** From the server's ready line until the last node was back. */
  backMs: number;
  /** Of attempts that reached the server, in the worst second that had a tenth of the herd's or more: not connected, for whatever reason. */
  worstFailed: number;
  /** Likewise over the whole return. */
  failed: number;
  attempts: number;
  /** Told to come later. */
  paced: number;
  /** Neither connected nor told to come later. */
  broken: Attempt[];
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
  return {
    backMs: Math.max(...attempts.map(({ endedAtMs }) => endedAtMs)) - readyAt,
    ...shares(attempts, nodes / 10),
    attempts: attempts.length,
    paced: attempts.filter(({ outcome }) => outcome === 'paced').length,
    broken: attempts.filter(({ outcome }) => outcome === 'failed'),
    submitMs,
  };
};

/** @param least a second with fewer ends than that is no spike */
const shares = (attempts: readonly Attempt[], least: number): { worstFailed: number; failed: number } => {
  const seconds = new Map<number, Attempt[]>();
  for (const one of attempts) {
    const second = Math.floor(one.endedAtMs / SECOND_MS);
    seconds.set(second, [...(seconds.get(second) ?? []), one]);
  }
  const share = (of: readonly Attempt[]): number =>
    of.length === 0 ? 0 : of.filter(({ outcome }) => outcome !== 'up').length / of.length;
  const spikes = [...seconds.values()].filter(({ length }) => length >= least);
  return { worstFailed: Math.max(0, ...spikes.map(share)), failed: share(attempts) };
};

/** Waits until what was measured before has left the server idle. */
export const untilQuiet = (operator: { nodesOnline(): Promise<number> }, count: number): Promise<void> =>
  waitFor('the herd to be seen', async () => (await operator.nodesOnline()) >= Math.min(count, 1000), 60_000);
