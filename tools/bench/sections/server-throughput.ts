import { startPostgres } from '../../../packages/server/test/postgres.ts';
import { type Fleet, startFleet } from '../../../test/fleet/fleet.ts';
import { allSucceeded, OPEN_RATES, type Operator, operatorOf, wallClockMs } from '../bench-fleet.ts';
import { atLeast, type Figure, figure } from '../figure.ts';
import { cpuMs } from '../proc.ts';
import { type BenchContext, type Section, times } from '../section.ts';
import { startSimulators } from '../simulator-process.ts';

/** Executions through the server, whole lives: submitted, offered in a long poll, acknowledged, reported with output and a
 *  signature, ended. Nodes are simulated; each answer of the server comes after its commit (SQLite with synchronous=FULL,
 *  PostgreSQL with fsync and synchronous_commit on). */

const NODES = 50;
const SUBMITTERS = 16;

interface Shape {
  name: string;
  /** Executions that one submission makes. */
  fan: number;
  bar: { sqlite: number; postgres: number };
  executions: (context: BenchContext) => number;
}
const SHAPES: readonly Shape[] = [
  {
    name: `one command to ${NODES} nodes`,
    fan: NODES,
    bar: { sqlite: 5000, postgres: 3000 },
    executions: (context) => times(context, 30_000, 5000),
  },
  {
    name: 'one command to one node',
    fan: 1,
    bar: { sqlite: 1000, postgres: 1000 },
    executions: (context) => times(context, 10_000, 2000),
  },
];

export const serverThroughput: Section = {
  name: 'server-throughput',
  what: 'executions a second through the server with simulated nodes, SQLite and PostgreSQL',
  run: async (context) => {
    const onSqlite = await measure(context, 'sqlite', undefined);
    await using cluster = await startPostgres();
    return [...onSqlite, ...(await measure(context, 'postgres', await cluster.createDatabase()))];
  },
};

const measure = async (
  context: BenchContext,
  kind: 'sqlite' | 'postgres',
  databaseUrl: string | undefined,
): Promise<Figure[]> => {
  const words = kind === 'sqlite' ? 'SQLite' : 'PostgreSQL';
  await using fleet = await startFleet({
    startDaemons: false,
    env: OPEN_RATES,
    ...(databaseUrl ? { databaseUrl } : {}),
  });
  const operator = operatorOf(fleet.url, fleet.token);
  try {
    const { join_token } = await operator.ask<{ join_token: string }>('POST', '/api/v1/join-tokens', { uses: NODES });
    const names = Array.from({ length: NODES }, (_, index) => `sim-${index + 1}`);
    await using simulators = await startSimulators(fleet.url, join_token, names, 2);
    const figures: Figure[] = [];
    for (const shape of SHAPES) {
      const executions = shape.executions(context);
      const samples: number[] = [];
      let polls = 0;
      let reports = 0;
      let busy = 0;
      await life(fleet, operator, simulators, names, shape, NODES * 20); // a warm-up
      const rounds = times(context, 3, 1);
      for (let round = 0; round < rounds; round++) {
        context.say(`${words}, ${shape.name}: round ${round + 1}`);
        const taken = await life(fleet, operator, simulators, names, shape, executions);
        samples.push(taken.perSecond);
        polls += taken.polls;
        reports += taken.reports;
        busy = taken.serverCores;
      }
      const perRequest = (requests: number) => ((rounds * executions) / requests).toFixed(0);
      figures.push(
        figure('server-throughput', {
          name: `${words}, ${shape.name}`,
          unit: '/s',
          samples,
          bar: atLeast(shape.bar[kind], 'median'),
          note: `executions; ${executions} a run, POST /api/v1/commands makes ${shape.fan}; per poll ${perRequest(polls)}, per report ${perRequest(reports)}; server busy ${busy.toFixed(2)} cores`,
        }),
      );
    }
    return figures;
  } finally {
    await operator.close();
  }
};

/** From the first submission until every node's last report was accepted; then all are verified. */
const life = async (
  fleet: Fleet,
  operator: Operator,
  simulators: Awaited<ReturnType<typeof startSimulators>>,
  names: readonly string[],
  shape: Shape,
  executions: number,
) => {
  const ids = new Set<string>();
  const submissions = executions / shape.fan;
  const server = fleet.server.pid ?? 0;
  const working = simulators.work(executions / names.length);
  const cpuBefore = cpuMs(server);
  const before = wallClockMs();
  let next = 0;
  const submitting = Array.from({ length: SUBMITTERS }, async () => {
    while (next < submissions) {
      const targets = shape.fan === 1 ? names[next % names.length] : 'all';
      next++;
      ids.add(await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets }));
    }
  });
  const [worked] = await Promise.all([working, ...submitting]);
  const tookMs = Math.max(...worked.map((one) => one.finishedAtMs)) - before;
  const serverCores = (cpuMs(server) - cpuBefore) / tookMs;
  await allSucceeded(operator, ids, executions);
  const sum = (key: 'polls' | 'reports') => worked.reduce((total, one) => total + one[key], 0);
  return { perSecond: executions / (tookMs / 1000), polls: sum('polls'), reports: sum('reports'), serverCores };
};
