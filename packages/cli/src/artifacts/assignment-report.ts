import type { Artifact, AssignAnswer } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import type { Surroundings } from '../surroundings.ts';
import { plainText } from '../ui/plain-text.ts';
import { table } from '../ui/table.ts';
import { secondsOf } from '../ui/time.ts';
import { statusTable } from './status-rows.ts';
import { type Wish, waitFor } from './waiting.ts';

/** What `assign` and `unassign` say: what changed, and with --wait what became of it. */

export const waitFlags = {
  wait: Flags.boolean({ summary: 'Wait until every node has done it' }),
  timeout: Flags.string({
    default: '60s',
    helpValue: 'TIME',
    summary: 'With --wait: at most this long, e.g. 90s, 5m',
  }),
};

export const settingsText = ({ name, version }: Artifact): string => `${name}@${version}`;

export const assignmentRows = (assignments: AssignAnswer['assignments'], width: number | undefined): string =>
  table(
    ['NODE', 'ARTIFACT', 'CHANGE'],
    assignments.map((one) => [one.host, `${one.name}@${one.version}`, changeText(one)]),
    width,
  );

const changeText = ({ changed, previous_version, version }: AssignAnswer['assignments'][number]): string => {
  if (!changed) return 'unchanged';
  if (previous_version === null) return 'new';
  return previous_version === version ? 'other settings' : `was ${previous_version}`;
};

const millisecondsOf = (text: string): number => {
  const seconds = secondsOf(text);
  if (seconds === null)
    throw new AegisError('cli.usage', `--timeout ${plainText(text)}: write a time such as 90s, 5m or 1h.`);
  return seconds * 1000;
};

/** Waits and prints the nodes' states. @returns the exit code: 1 when a node failed or was not done in time */
export const waitReport = async (
  api: Api,
  wishes: readonly Wish[],
  flags: { json: boolean; timeout: string },
  around: Surroundings,
  width: number | undefined,
  answer: object = {},
): Promise<number> => {
  const { output } = around;
  const { items, settled } = await waitFor(api, wishes, millisecondsOf(flags.timeout), around);
  const ours = items.filter((item) =>
    wishes.some((wish) => wish.node_uid === item.node_uid && wish.name === item.name),
  );
  if (flags.json) {
    const waited = wishes.map(({ node, node_uid, name }, index) => ({ node, node_uid, name, settled: settled[index] }));
    await output.out(`${JSON.stringify({ ...answer, waited, items: ours })}\n`);
  } else {
    const gone = wishes.filter(
      (wish) => !ours.some(({ node_uid, name }) => node_uid === wish.node_uid && name === wish.name),
    );
    const off = gone.map(({ name, node }) => [name, node, '-', 'detached', '-', '0', '']);
    await output.out(statusTable(ours, width, off));
  }
  if (settled.every((one) => one === 'done')) return 0;
  const nodes = (state: string) =>
    wishes.filter((_, index) => settled[index] === state).map(({ node }) => plainText(node));
  const [failed, pending] = [nodes('failed'), nodes('pending')];
  const name = plainText(wishes[0]?.name ?? '');
  if (failed.length > 0)
    await output.err(`aegis: failed on ${failed.join(', ')}. 'aegis artifacts status ${name}' says why.\n`);
  if (pending.length > 0)
    await output.err(
      `aegis: not done on ${pending.join(', ')} after ${flags.timeout}; it goes on. 'aegis artifacts status ${name} --watch' follows it.\n`,
    );
  return 1;
};
