import { Pool } from 'undici';
import { wallClockMs } from './bench-fleet.ts';
import { enrolSimulatedNode, type SimulatedNode } from './simulated-node.ts';
import type { FromSimulator, ToSimulator } from './simulator-process.ts';

/** A process with some simulated nodes. Started by simulator-process.ts and told what to do over IPC. */

const say = (message: FromSimulator): void => void process.send?.(message);

const ENROLLED_AT_ONCE = 25;
let nodes: SimulatedNode[] = [];

const obey = async (message: ToSimulator): Promise<void> => {
  if (message.do === 'enrol') {
    const pool = new Pool(message.url, {
      connections: 2 * message.names.length,
      bodyTimeout: 0,
      headersTimeout: 0,
      keepAliveTimeout: 60_000,
      connect: { timeout: 60_000 },
    });
    nodes = [];
    for (let at = 0; at < message.names.length; at += ENROLLED_AT_ONCE)
      nodes.push(
        ...(await Promise.all(
          message.names
            .slice(at, at + ENROLLED_AT_ONCE)
            .map((name) => enrolSimulatedNode(pool, message.joinToken, name)),
        )),
      );
    say({ did: 'enrol' });
  } else if (message.do === 'attach') {
    await Promise.all(nodes.map((node) => node.attach(message.artifact)));
    say({ did: 'attach', finishedAtMs: wallClockMs() });
  } else if (message.do === 'back-up') {
    say({ did: 'back-up', runs: await Promise.all(nodes.map((node, nth) => node.backUp(nth, message.plan))) });
  } else {
    const counts = await Promise.all(nodes.map((node) => node.work(message.perNode)));
    say({
      did: 'work',
      finishedAtMs: wallClockMs(),
      polls: counts.reduce((sum, one) => sum + one.polls, 0),
      reports: counts.reduce((sum, one) => sum + one.reports, 0),
      cpuMs: process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000,
    });
  }
};

process.on('message', (message: ToSimulator) => {
  obey(message).catch((error: unknown) => say({ did: 'fail', reason: String(error) }));
});
process.on('disconnect', () => process.exit());
