import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Execution } from '@aegis/protocol/commands/submission';
import type { HttpRequest } from '../../packages/daemon/src/platform/http/door.ts';
import { waitFor } from '../faults/wait.ts';
import type { Run } from './api.ts';
import { type HeldFleet, type HeldNode, markOf } from './in-process.ts';

/** Commands that leave a line in a marker when they start, so that a second start would show; those that `WAITS` go on only when they are
 *  told to. */

export interface Marked {
  run: Run;
  started(): number;
  go(): void;
  /** For a second place to wait at. */
  goTwice(): void;
}
export const marked = async (fleet: HeldFleet, node: HeldNode, then: string, more: object = {}): Promise<Marked> => {
  const base = join(fleet.folder, randomUUID());
  const cmd = `echo x >> ${base}.started; GO=${base}.go; ${then}`;
  const payload = { cmd, env: markOf(node.dataDir) };
  const run = await fleet.api.submit({ targets: node.name, command_type: 'RunCommand', payload, ...more });
  return {
    run,
    started: () => (existsSync(`${base}.started`) ? readFileSync(`${base}.started`, 'utf8').split('\n').length - 1 : 0),
    go: () => writeFileSync(`${base}.go`, ''),
    goTwice: () => writeFileSync(`${base}.go.2`, ''),
  };
};
export const WAITS = 'until [ -e $GO ]; do sleep 0.05; done; echo went';
export const quick = (fleet: HeldFleet, node: HeldNode, more: object = {}) => marked(fleet, node, 'echo done', more);

export const only = async ({ run }: Marked): Promise<Execution> => {
  const [execution, ...others] = await run.executions();
  if (!execution || others.length > 0) throw new Error(`expected one execution, found ${others.length + 1}`);
  return execution;
};
export const reached = (one: Marked, state: string): Promise<void> =>
  waitFor(
    `the state ${state}`,
    async () => (await one.run.executions()).at(-1)?.state === state,
    30_000,
    () => one.run.id,
  );
export const ended = async (one: Marked) => {
  await one.run.finished();
  const { state, presumed, attempt, error } = await only(one);
  return { state, presumed, attempt, error: error?.code ?? null, started: one.started() };
};
export const ran = { state: 'succeeded', presumed: false, attempt: 1, error: null, started: 1 };
export const never = (state: string, error: string | null) => ({
  state,
  presumed: false,
  attempt: 1,
  error,
  started: 0,
});

export const isTo = (asked: HttpRequest, path: string): boolean => new URL(asked.url).pathname === path;
