import { setTimeout as sleep } from 'node:timers/promises';
import { operatorOf } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { startHerdStage } from '../herd/stage.ts';
import { residentMb } from '../proc.ts';
import type { Section } from '../section.ts';
import { median } from '../statistics.ts';

/** Half an hour in which nodes come and go and commands run, and what the server holds in the end. Only by `bin/bench --soak`. */

const STAY = 1500;
const COME_AND_GO = 500;
const TURN_MS = 15_000;
const LOOK_MS = 2500;

export const soak = (minutes: number): Section => ({
  name: 'soak',
  what: `memory of the server over ${minutes} minutes, while a quarter of 2,000 nodes comes and goes and commands run`,
  run: async (context) => {
    await using stage = await startHerdStage(STAY + COME_AND_GO, { processes: 1 });
    const { fleet, herd } = stage;
    const operator = operatorOf(fleet.url, fleet.token);
    try {
      await herd.start(0, STAY);
      await herd.untilUp(STAY, 120_000);
      await using restless = stage.another();
      const resident: { atMs: number; mb: number }[] = [];
      const beganAt = performance.now();
      const lastsMs = minutes * 60_000;
      const look = (): void => {
        resident.push({ atMs: performance.now() - beganAt, mb: residentMb(fleet.server.pid ?? 0) });
      };
      let turns = 0;
      while (performance.now() - beganAt < lastsMs) {
        await restless.start(STAY, COME_AND_GO);
        await restless.untilUp(COME_AND_GO, 120_000);
        const id = await operator.submit({ command_type: 'RunCommand', payload: { argv: ['true'] }, targets: ['all'] });
        for (let at = 0; at < TURN_MS; at += LOOK_MS) {
          await sleep(LOOK_MS);
          look();
        }
        await operator.ended(id);
        await restless.stop();
        await Promise.all([herd.tell(), restless.tell()]); // forgets what was stored
        turns++;
        context.say(`${((performance.now() - beganAt) / 60_000).toFixed(1)} min: ${resident.at(-1)?.mb.toFixed(0)} MB`);
      }
      if ((await herd.tell()).up !== STAY) throw new Error('nodes that were to stay have gone');
      // The heap takes minutes to find its size.
      const warm = resident.filter(({ atMs }) => atMs > lastsMs / 3).map(({ mb }) => mb);
      const third = Math.ceil(warm.length / 3);
      return [
        figure('soak', {
          name: 'server, resident, last third beside the first',
          unit: 'MB',
          samples: warm.slice(-third),
          comparedWith: { name: 'the first third, once warm', samples: warm.slice(0, third) },
          bar: atMost(1.1, 'ratio'),
          note: `${turns} times ${COME_AND_GO} of ${STAY + COME_AND_GO} nodes came and went, and each time a command ran on all; at first ${median(warm.slice(0, third)).toFixed(0)} MB`,
        }),
      ];
    } finally {
      await operator.close();
    }
  },
});
