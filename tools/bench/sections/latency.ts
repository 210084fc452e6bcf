import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from '../../../test/faults/bad-network.ts';
import { startBenchFleet, wallClockMs } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { type Section, times } from '../section.ts';

/** From before the submission's request to the start of the process on the node, over the long poll. */
export const latency: Section = {
  name: 'latency',
  what: 'submission to process start over the long poll',
  run: async (context) => {
    await using one = await startBenchFleet({ nodes: 1 });
    const { operator } = one;
    const random = seededRandom(1);
    const starts: number[] = [];
    const dates: number[] = [];
    const samples = times(context, 500, 60);
    for (let at = -5; at < samples; at++) {
      const before = wallClockMs();
      const id = await operator.submit({
        command_type: 'RunCommand',
        payload: { argv: ['date', '+%s.%N'] },
        targets: 'web-1',
      });
      await operator.ended(id);
      const { items } = await operator.ask<{ items: { state: string; started_at: string }[] }>(
        'GET',
        `/api/v1/commands/${id}/executions`,
      );
      const [execution] = items;
      if (execution?.state !== 'succeeded') throw new Error(`${id}: ${JSON.stringify(items)}`);
      const date = await operator.text(`/api/v1/commands/${id}/logs?node=web-1&stream=stdout`);
      if (at >= 0) {
        starts.push(Date.parse(execution.started_at) - before);
        dates.push(Number(date) * 1000 - before);
      }
      await sleep(5 + 20 * random()); // no rhythm: the next one finds the poll waiting, at any moment of a tick
    }
    const name = 'submit to process start';
    return [
      figure('latency', {
        name: `${name}, p50`,
        unit: 'ms',
        samples: dates,
        bar: atMost(15, 'median'),
        note: "by the command's own clock, `date +%s.%N`: its exec and loading, one or two ms, count as well",
      }),
      figure('latency', { name: `${name}, p99`, unit: 'ms', samples: dates, bar: atMost(60, 'p99') }),
      figure('latency', {
        name: 'submit to started_at',
        unit: 'ms',
        samples: starts,
        note: 'the supervisor notes it before the claim is on the disk, so the process starts later than that',
      }),
    ];
  },
};
