import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { waitFor } from '../../../test/faults/wait.ts';
import { allSucceeded, type BenchFleet, startBenchFleet, wallClockMs } from '../bench-fleet.ts';
import { atLeast, figure } from '../figure.ts';
import { residentMb } from '../proc.ts';
import { type Section, times } from '../section.ts';
import { alternately } from '../stopwatch.ts';

/** Real commands on one node, as fast as they go: submitted one by one, started, ended, reported and stored. */

const AT_ONCE = 16;
const BALLAST_MB = 200;
const SUBMITTERS = 16;

export const nodeThroughput: Section = {
  name: 'node-throughput',
  what: 'real executions a second on one node, small and with 200 MB of Buffers in the daemon',
  run: async (context) => {
    const folder = mkdtempSync(join(tmpdir(), 'aegis-bench-'));
    const ballast = join(folder, 'ballast.cjs');
    // Touched page by page, so that a fork has their page tables to copy.
    writeFileSync(
      ballast,
      `globalThis.ballast = Array.from({ length: ${BALLAST_MB / 4} }, () => Buffer.alloc(4_000_000, 1));\n`,
    );
    try {
      await using two = await startBenchFleet({
        nodes: 2,
        daemonFlags: ['--max-concurrent', String(AT_ONCE)],
        daemonEnv: (name) => (name === 'web-2' ? { NODE_OPTIONS: `--require=${ballast}` } : {}),
      });
      const [small, large] = two.fleet.nodes.map(({ daemon }) => residentMb(daemon.pid ?? 0));
      if (!small || !large || large - small < BALLAST_MB * 0.9)
        throw new Error(`the ballast is missing: ${small} and ${large} MB are resident`);
      const commands = times(context, 2000, 300);
      const taken = await alternately(times(context, 3, 1), {
        small: () => perSecond(two, 'web-1', commands),
        large: () => perSecond(two, 'web-2', commands),
      });
      const how = `${commands} commands, each submitted by itself by ${SUBMITTERS} submitters; ${AT_ONCE} at once on the node`;
      return [
        figure('node-throughput', {
          name: '`true`, executions',
          unit: '/s',
          samples: taken.small,
          bar: atLeast(300, 'median'),
          note: `${how}; daemon ${small.toFixed(0)} MB`,
        }),
        figure('node-throughput', {
          name: `the same with ${BALLAST_MB} MB of Buffers in the daemon`,
          unit: '/s',
          samples: taken.large,
          comparedWith: { name: 'without', samples: taken.small },
          bar: atLeast(300, 'median'),
          note: `"no fewer": the ratio says it; daemon ${large.toFixed(0)} MB`,
        }),
      ];
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

/** From the first submission to the end of the last command, as the server recorded it; all must have succeeded. */
const perSecond = async ({ operator }: BenchFleet, node: string, commands: number): Promise<number> => {
  const ids = new Set<string>();
  const before = wallClockMs();
  let left = commands;
  await Promise.all(
    Array.from({ length: SUBMITTERS }, async () => {
      while (left-- > 0)
        ids.add(await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets: node }));
    }),
  );
  await nothingUnderWay(operator);
  return commands / (((await allSucceeded(operator, ids, commands)) - before) / 1000);
};

const nothingUnderWay = (operator: BenchFleet['operator']): Promise<void> =>
  waitFor(
    'all commands to end',
    async () => {
      // In the order in which they move on: asked the other way round, what goes from one to the other in between is missed.
      for (const state of ['pending', 'running']) {
        const { items } = await operator.ask<{ items: unknown[] }>('GET', `/api/v1/commands?status=${state}&limit=1`);
        if (items.length > 0) return false;
      }
      return true;
    },
    120_000,
  );
