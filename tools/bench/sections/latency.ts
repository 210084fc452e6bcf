import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from '../../../test/faults/bad-network.ts';
import { startBenchFleet, wallClockMs } from '../bench-fleet.ts';
import { atLeast, atMost, figure } from '../figure.ts';
import { startHerd } from '../herd/herd-process.ts';
import { enrolHerd, serverDataOf } from '../herd/identity.ts';
import { type Section, times } from '../section.ts';
import { startSlowPoller } from '../slow-poller.ts';

/** From before the submission's request to the start of the process on the node: over the channel, over the held long poll, and to an agent that
 *  polls every five seconds; they take turns. Then how many commands a second get through to one node, the channel beside that agent. */

const CARRIERS: Readonly<Record<string, string>> = { 'web-1': 'ws', 'web-2': 'poll' };
const POLL_EVERY_MS = 5000;
const SUBMITTERS = 16;

export const latency: Section = {
  name: 'latency',
  what: 'submission to process start over the channel, the held long poll and polling every 5 s',
  run: async (context) => {
    await using one = await startBenchFleet({
      nodes: 2,
      daemonEnv: (name) => ({ AEGIS_CARRIER: CARRIERS[name] ?? 'auto' }),
    });
    const { operator, fleet } = one;
    await using poller = await startSlowPoller(fleet.url, operator, POLL_EVERY_MS);
    const random = seededRandom(1);
    const submit = (targets: string, argv: readonly string[]): Promise<string> =>
      operator.submit({ command_type: 'RunCommand', payload: { argv }, targets });
    const starts: number[] = [];
    const dates = { channel: [] as number[], held: [] as number[], polled: [] as number[] };
    const toDaemon = async (node: string, into: number[]): Promise<void> => {
      const before = wallClockMs();
      const id = await submit(node, ['date', '+%s.%N']);
      await operator.ended(id);
      const { items } = await operator.ask<{ items: { state: string; started_at: string }[] }>(
        'GET',
        `/api/v1/commands/${id}/executions`,
      );
      const [execution] = items;
      if (execution?.state !== 'succeeded') throw new Error(`${id}: ${JSON.stringify(items)}`);
      if (into === dates.channel) starts.push(Date.parse(execution.started_at) - before);
      const printed = await operator.text(`/api/v1/commands/${id}/logs?node=${node}&stream=stdout`);
      into.push(Number(printed) * 1000 - before);
      await sleep(5 + 20 * random()); // no rhythm: the next one finds it waiting, at any moment of a tick
    };
    const rounds = times(context, 20, 2);
    const each = times(context, 20, 10);
    for (let nth = 0; nth < 5; nth++) for (const node of ['web-1', 'web-2']) await toDaemon(node, []);
    for (let round = 0; round < rounds; round++) {
      for (let nth = 0; nth < each; nth++) {
        await toDaemon('web-1', dates.channel);
        await toDaemon('web-2', dates.held);
      }
      await sleep(POLL_EVERY_MS * random());
      const before = wallClockMs();
      dates.polled.push((await poller.ended(await submit(poller.name, ['date', '+%s.%N']))) - before);
    }

    const identity = await enrolHerd(serverDataOf(fleet.folder), 1);
    const { hostname: host, port } = new URL(fleet.url);
    await using herd = startHerd({ host, port: Number(port), tls: false, ...identity });
    await herd.start(0, 1);
    await herd.untilUp(1, 60_000);
    const throughput = { channel: [] as number[], polled: [] as number[] };
    const rate = async (target: string, count: number, ended: (ids: ReadonlySet<string>) => Promise<unknown>) => {
      const before = performance.now();
      const ids = new Set<string>();
      let next = 0;
      const submitting = Array.from({ length: SUBMITTERS }, async () => {
        while (next++ < count) ids.add(await submit(target, ['true']));
      });
      await Promise.all(submitting);
      await ended(ids);
      return (count * 1000) / (performance.now() - before);
    };
    for (let round = 0; round < times(context, 3, 1); round++) {
      throughput.channel.push(
        await rate('herd-0', times(context, 1500, 200), async (ids) => {
          for (const left = new Set(ids); left.size > 0; await sleep(5))
            for (const { commandId } of (await herd.tell()).stored) left.delete(commandId);
        }),
      );
      throughput.polled.push(
        await rate(poller.name, times(context, 400, 100), (ids) => Promise.all([...ids].map(poller.ended))),
      );
    }
    const name = 'submit to process start';
    return [
      figure('latency', {
        name: `${name} over the channel, p50`,
        unit: 'ms',
        samples: dates.channel,
        bar: atMost(5, 'median'),
        note: "by the command's own clock, `date +%s.%N`: its exec and loading, one or two ms, count as well",
      }),
      figure('latency', {
        name: `${name} over the channel, p99`,
        unit: 'ms',
        samples: dates.channel,
        bar: atMost(25, 'p99'),
      }),
      figure('latency', {
        name: 'submit to started_at over the channel',
        unit: 'ms',
        samples: starts,
        note: 'the supervisor notes it before the claim is on the disk, so the process starts later than that',
      }),
      figure('latency', {
        name: `${name} over the held poll, p50`,
        unit: 'ms',
        samples: dates.held,
        bar: atMost(15, 'median'),
      }),
      figure('latency', {
        name: `${name} over the held poll, p99`,
        unit: 'ms',
        samples: dates.held,
        bar: atMost(60, 'p99'),
      }),
      figure('latency', {
        name: 'channel beside polling every 5 s',
        unit: 'ms',
        samples: dates.channel,
        comparedWith: { name: 'polling every 5 s', samples: dates.polled },
        bar: atMost(0.2, 'ratio'),
        note: `half or a fifth of it was hoped for; polling every 5 s: median ${(dates.polled.toSorted((a, b) => a - b)[dates.polled.length >> 1] ?? 0).toFixed(0)} ms`,
      }),
      figure('latency', {
        name: 'commands to one node a second, over the channel',
        unit: '/s',
        samples: throughput.channel,
        comparedWith: { name: 'polling every 5 s', samples: throughput.polled },
        bar: atLeast(10, 'ratio'),
        note: `each a submission of its own, ${SUBMITTERS} submitters, until its signed result is stored; simulated nodes; a poll brings up to 100`,
      }),
    ];
  },
};
