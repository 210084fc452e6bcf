import { operatorOf, wallClockMs } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { startHerdStage } from '../herd/stage.ts';
import { cpuMs } from '../proc.ts';
import { type Section, times } from '../section.ts';

/** One command that does nothing to every node of a large fleet, over the channel: acknowledged, reported with a signature, stored. */

const UP_MS = 300_000;
const DONE_MS = 120_000;

export const fanOut: Section = {
  name: 'fan-out',
  what: 'one command to 10,000 connected nodes, until every result is stored',
  run: async (context) => {
    const nodes = times(context, 10_000, 500);
    await using stage = await startHerdStage(nodes);
    const { fleet, herd } = stage;
    const operator = operatorOf(fleet.url, fleet.token);
    try {
      await herd.start(0, nodes);
      await herd.untilUp(nodes, UP_MS);
      const each: number[] = [];
      const last: number[] = [];
      const accepted: number[] = [];
      let cores = 0;
      const rounds = times(context, 3, 1);
      for (let round = 0; round <= rounds; round++) {
        await herd.tell();
        const cpuBefore = cpuMs(fleet.server.pid ?? 0);
        const before = wallClockMs();
        const id = await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets: ['all'] });
        const acceptedMs = wallClockMs() - before;
        const stored: number[] = [];
        while (stored.length < nodes) {
          if (wallClockMs() - before > DONE_MS)
            throw new Error(`${stored.length} of ${nodes} results after two minutes`);
          await new Promise((resolve) => setTimeout(resolve, 200));
          for (const { commandId, atMs } of (await herd.tell()).stored)
            if (commandId === id) stored.push(atMs - before);
        }
        const lastMs = Math.max(...stored);
        cores = (cpuMs(fleet.server.pid ?? 0) - cpuBefore) / (wallClockMs() - before);
        const { state, result } = await operator.ask<{ state: string; result: { succeeded?: number } }>(
          'GET',
          `/api/v1/commands/${id}`,
        );
        if (state !== 'succeeded' || result.succeeded !== nodes)
          throw new Error(`${id} is ${state}: ${JSON.stringify(result)}`);
        context.say(`round ${round}: the last of ${nodes} after ${(lastMs / 1000).toFixed(2)} s`);
        if (round === 0) continue;
        each.push(...stored.map((ms) => ms / 1000));
        last.push(lastMs / 1000);
        accepted.push(acceptedMs);
      }
      return [
        figure('fan-out', {
          name: `a result of ${nodes} is stored`,
          unit: 's',
          samples: each,
          bar: atMost(8, 'p99'),
          note: `from before the submission until the node has the answer to its report; SQLite, inner encryption on, no TLS; server busy ${cores.toFixed(2)} cores, the other taken by the nodes`,
        }),
        figure('fan-out', { name: 'the last one', unit: 's', samples: last }),
        figure('fan-out', { name: 'the submission is answered', unit: 'ms', samples: accepted }),
      ];
    } finally {
      await operator.close();
    }
  },
};
