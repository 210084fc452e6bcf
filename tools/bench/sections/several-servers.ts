import { startPostgres } from '../../../packages/server/test/postgres.ts';
import { startRedis } from '../../../test/fleet/redis.ts';
import { type ServerProcesses, startServers } from '../../../test/fleet/server-processes.ts';
import { allSucceeded, type Operator, operatorOf, wallClockMs } from '../bench-fleet.ts';
import { atLeast, type Figure, figure } from '../figure.ts';
import { cpuMs } from '../proc.ts';
import { type BenchContext, type Section, times } from '../section.ts';
import { type Simulators, startSimulators } from '../simulator-process.ts';

/** The same work through one server process and through two that share it, on one PostgreSQL: whole lives of executions, fifty simulated nodes.
 *  Both processes run all the time, and the two ways take turns; on this machine they share the processor with nodes, submitters and the
 *  database, so two can at best be no slower. */

const NODES = 50;
const SUBMITTERS = 16;

interface Way {
  name: 'one' | 'two';
  nodes: { names: readonly string[]; simulators: Simulators }[];
  operators: readonly Operator[];
}

export const severalServers: Section = {
  name: 'several-servers',
  what: 'executions a second through one and through two server processes, on one PostgreSQL, with and without Redis',
  run: async (context) => {
    await using cluster = await startPostgres();
    await using redis = await startRedis();
    return [
      ...(await measure(context, 'notifications', { databaseUrl: await cluster.createDatabase() })),
      ...(await measure(context, 'Redis', { databaseUrl: await cluster.createDatabase(), redisUrl: redis.url })),
    ];
  },
};

const measure = async (
  context: BenchContext,
  bus: string,
  on: { databaseUrl: string; redisUrl?: string },
): Promise<Figure[]> => {
  await using servers = await startServers({ count: 2, ...on });
  await using stack = new AsyncDisposableStack();
  const joinToken = servers.offline('join-token', '--uses', '1000');
  const token = servers.offline('token', '--role', 'admin');
  const [first, second] = servers.servers.map((server) =>
    stack.adopt(operatorOf(server.url, token), (it) => it.close()),
  );
  if (!first || !second) throw new RangeError('two servers');
  const nodesAt = async (at: 0 | 1, prefix: string, count: number, processes: number) => {
    const names = Array.from({ length: count }, (_, nth) => `${prefix}-${nth + 1}`);
    return { names, simulators: stack.use(await startSimulators(urlOf(servers, at), joinToken, names, processes)) };
  };
  const ways: Way[] = [
    { name: 'one', nodes: [await nodesAt(0, 'one', NODES, 2)], operators: [first] },
    {
      name: 'two',
      nodes: [await nodesAt(0, 'left', NODES / 2, 1), await nodesAt(1, 'right', NODES / 2, 1)],
      operators: [first, second],
    },
  ];
  const executions = times(context, 20_000, 1000);
  const one: number[] = [];
  const two: number[] = [];
  const busyMs = () => servers.servers.reduce((sum, { process }) => sum + cpuMs(process.pid ?? 0), 0);
  const spent = { one: 0, two: 0 };
  for (const way of ways) await life(way, NODES * 4); // a warm-up
  for (let round = 0; round < times(context, 5, 2); round++)
    for (const way of round % 2 === 0 ? ways : [...ways].reverse()) {
      context.say(`${bus}, through ${way.name}: round ${round + 1}`);
      const before = busyMs();
      (way.name === 'one' ? one : two).push(await life(way, executions));
      spent[way.name] += busyMs() - before;
    }
  const each = (name: Way['name']) =>
    `${(spent[name] / (one.length * executions)).toFixed(2)} ms of processor time each in the servers`;
  return [
    figure('several-servers', {
      name: `${bus}: through one of two`,
      unit: '/s',
      samples: one,
      note: `executions; ${executions} a run, each a command of its own; ${each('one')}`,
    }),
    figure('several-servers', {
      name: `${bus}: through both`,
      unit: '/s',
      samples: two,
      comparedWith: { name: 'through one', samples: one },
      bar: atLeast(1, 'ratio'),
      note: `half of the nodes and of the submitters at each; ${each('two')}`,
    }),
  ];
};

const urlOf = ({ servers }: ServerProcesses, at: 0 | 1): string => servers[at].url;

/** From the first submission until every node's last report was accepted; then all are verified. */
const life = async ({ nodes, operators }: Way, executions: number): Promise<number> => {
  const names = nodes.flatMap((some) => some.names);
  const ids = new Set<string>();
  const working = nodes.map(({ simulators, names: some }) =>
    simulators.work(executions / names.length).then((worked) => ({ worked, some })),
  );
  const before = wallClockMs();
  let next = 0;
  const submitting = Array.from({ length: SUBMITTERS }, async (_, nth) => {
    const operator = operators[nth % operators.length];
    while (operator && next < executions) {
      const targets = names[next % names.length];
      next++;
      ids.add(await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets }));
    }
  });
  const [worked] = await Promise.all([Promise.all(working), ...submitting]);
  const tookMs = Math.max(...worked.flatMap((some) => some.worked.map((one) => one.finishedAtMs))) - before;
  const [operator] = operators;
  if (operator) await allSucceeded(operator, ids, executions);
  return executions / (tookMs / 1000);
};
