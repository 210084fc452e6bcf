import { atMost, figure } from '../figure.ts';
import { killedAndBack, type Returned } from '../herd/return.ts';
import { startHerdStage } from '../herd/stage.ts';
import { type Section, times } from '../section.ts';

/** A server that dies with a whole fleet connected, and is started again. */

const BACK_MS = 120_000;
const REST_MS = 12_000; // the daemon's loop takes a connection for a good one after ten seconds

export const herd: Section = {
  name: 'herd',
  what: '5,000 connected nodes, `kill -9` of their server, and its start',
  run: async (context) => {
    const nodes = times(context, 5000, 500);
    await using stage = await startHerdStage(nodes);
    await stage.herd.start(0, nodes);
    await stage.herd.untilUp(nodes, 300_000);
    const rounds: Returned[] = [];
    for (let round = 0; round < times(context, 3, 1); round++) {
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
      rounds.push(await killedAndBack(stage.fleet, stage.herd, nodes, BACK_MS));
      context.say(`round ${round + 1}: all back after ${((rounds.at(-1)?.backMs ?? 0) / 1000).toFixed(1)} s`);
    }
    const each = (of: (round: Returned) => number): number[] => rounds.map(of);
    return [
      figure('herd', {
        name: `${nodes} nodes back after a kill`,
        unit: 's',
        samples: each(({ backMs }) => backMs / 1000),
        bar: atMost(60, 'max'),
        note: 'from the ready line of the new server to the last node connected',
      }),
      figure('herd', {
        name: 'handshakes that failed, in the worst second',
        unit: '%',
        samples: each(({ worstBroken }) => worstBroken * 100),
        bar: atMost(10, 'max'),
        note: 'of attempts that ended in that second and reached the server: broken off, refused or too late',
      }),
      figure('herd', {
        name: 'told to come later',
        unit: '%',
        samples: each(({ paced, attempts }) => (100 * paced) / attempts),
        note: 'of attempts in all, before a handshake began; each was given a moment',
      }),
      figure('herd', {
        name: 'a submission meanwhile',
        unit: 'ms',
        samples: rounds.flatMap(({ submitMs }) => submitMs),
        bar: atMost(2000, 'max'),
      }),
    ];
  },
};
