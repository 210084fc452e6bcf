import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { signDirective } from '@aegis/protocol/access/directive';
import { expect, test } from 'vitest';
import type { Clock } from '../src/platform/clock.ts';
import { startContractServer } from './contract-server.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** A directive that was obeyed once and comes again, good in every other way: nothing starts a second time, whatever the daemon and its
 *  clock went through in between. */

const DAY_MS = 86_400_000;

const startStage = async () => {
  const undo = new AsyncDisposableStack();
  const server = undo.use(await startContractServer());
  const node = undo.use(testNode(server));
  const marker = join(node.dataDir, 'started');
  let offsetMs = 0;
  const clock: Clock = { now: () => Date.now() + offsetMs, monotonic: () => performance.now() };
  let daemon = await node.start({ clock });
  const directive = server.runDirective({ cmd: `echo x >> ${marker}` });
  const envelope = signDirective(directive, server.serverKey);
  const offered = (id: string) => {
    const execution = server.know(directive.id, 1, id);
    server.offer({
      kind: 'command.run',
      command_id: directive.id,
      execution_id: execution.id,
      attempt: 1,
      directive: envelope,
    });
    return execution;
  };
  const first = offered(randomUUID());
  await waitFor('it to run', () => first.state === 'succeeded');
  return {
    server,
    /** The daemon ends, and begins again with its clock so far off. */
    restart: async (offByMs: number) => {
      await daemon.close();
      offsetMs = offByMs;
      daemon = await node.start({ clock });
    },
    jump: (offByMs: number) => {
      offsetMs = offByMs;
    },
    starts: () => (existsSync(marker) ? readFileSync(marker, 'utf8') : ''),
    /** Offered again, under its own execution's id and under another. @returns what is told of the other one */
    replay: async (): Promise<unknown> => {
      const same = offered(first.id);
      const other = offered(randomUUID());
      await waitFor('both to be dealt with', () => same.acknowledged > 0 && other.reports.length > 0);
      await waitFor('the daemon to have nothing to do', () => daemon.status().running + daemon.status().queued === 0);
      return other.reports.at(-1)?.error?.code ?? other.reports.at(-1)?.state ?? null;
    },
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  };
};

test('at once, and after a restart', async () => {
  await using stage = await startStage();
  await stage.replay();
  await stage.restart(0);
  await stage.replay();
  expect(stage.starts()).toBe('x\n');
});

test('after it is no longer remembered: the clock a fortnight ahead, and back again', async () => {
  await using stage = await startStage();
  await stage.restart(14 * DAY_MS);
  expect(await stage.replay()).toMatch(/^(?:commands\.expired|access\.stale_directive)$/);
  await stage.restart(0);
  expect(await stage.replay()).toBe('access.stale_directive');
  expect(stage.starts()).toBe('x\n');
});

test('while the clock jumps ahead and back', async () => {
  await using stage = await startStage();
  for (const offset of [2 * DAY_MS, -2 * DAY_MS, 0]) {
    stage.jump(offset);
    await stage.replay();
  }
  expect(stage.starts()).toBe('x\n');
});
