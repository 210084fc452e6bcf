import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBenchFleet } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { childrenOf, cpuMs, residentMb } from '../proc.ts';
import { type Section, times } from '../section.ts';

/** What a daemon costs that has nothing to do but wait. */
export const idle: Section = {
  name: 'idle',
  what: 'memory and processor time of an idle daemon',
  run: async (context) => {
    const seconds = times(context, 30, 10);
    await using one = await startBenchFleet({ nodes: 1 });
    const daemon = one.fleet.nodes[0]?.daemon.pid ?? 0;
    const server = one.fleet.server.pid ?? 0;
    const [launcher] = childrenOf(daemon);
    await sleep(seconds * 1000);
    const share = async (): Promise<number> => {
      const [before, since] = [cpuMs(daemon), performance.now()];
      await sleep(seconds * 1000);
      return (100 * (cpuMs(daemon) - before)) / (performance.now() - since);
    };
    const memory: number[] = [];
    const processor: number[] = [];
    for (let round = 0; round < times(context, 3, 1); round++) {
      memory.push(residentMb(daemon));
      processor.push(await share());
    }
    return [
      figure('idle', {
        name: 'daemon, resident',
        unit: 'MB',
        samples: memory,
        bar: atMost(80, 'max'),
        note: `${seconds} s after its start and every ${seconds} s; 65 is the aim`,
      }),
      figure('idle', {
        name: 'daemon, of a core',
        unit: '%',
        samples: processor,
        bar: atMost(0.2, 'median'),
        note: `over ${seconds} s each, all its threads`,
      }),
      ...(launcher === undefined
        ? []
        : [
            figure('idle', {
              name: `its child ${readFileSync(`/proc/${launcher}/comm`, 'utf8').trim()}, resident`,
              unit: 'MB',
              samples: [residentMb(launcher)],
            }),
          ]),
      figure('idle', { name: 'server with one node, resident', unit: 'MB', samples: [residentMb(server)] }),
    ];
  },
};
