import { ackCommands, pushStatus, submitCommand } from '@aegis/protocol/commands/endpoints';
import { expect, test } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import { EMPTY, signed } from '../../packages/server/test/commands-support.ts';
import { type Line, restlessReader } from '../../packages/server/test/events-support.ts';
import { freshDatabase } from '../../packages/server/test/shared-postgres.ts';
import { type EnrolledNode, startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { Refused, type TestClient } from '../../packages/server/test/test-client.ts';
import { seededRandom } from '../faults/bad-network.ts';
import { waitFor } from '../faults/wait.ts';
import { mortalServer } from '../fleet/mortal-server.ts';

/** Every state of every execution is told once and in order to a reader that goes on from its last id: across breaks of its connection, the
 *  server's death by `kill -9`, and two servers that write at the same time. */

const LANES = 10;

interface Life {
  executionId: string;
  states: string[];
}
type Surely = <T>(what: string, work: () => Promise<T>) => Promise<T | undefined>;

/** One execution from its submission to its end, each step once more until it is answered. */
const live = async (on: {
  nth: number;
  node: EnrolledNode;
  operator: () => TestClient;
  asNode: () => TestClient;
  surely: Surely;
}): Promise<Life> => {
  const { nth, node, surely } = on;
  const submission = {
    command_type: 'exec' as const,
    payload: { argv: ['true'] },
    targets: [node.name],
    idempotency_key: `c${nth}`,
  };
  const answer = await surely('a submission', () => on.operator().call(submitCommand, { body: submission }));
  const [ids] = (answer?.targets ?? []).map(({ execution_id }) => ({
    command_id: answer?.command_id ?? '',
    execution_id: execution_id ?? '',
  }));
  if (!ids) throw new Error('nothing was submitted');
  await surely('an acknowledgement', () => on.asNode().call(ackCommands, { body: { ids: [ids.execution_id] } }));
  const end = nth % 3 === 0 ? ('failed' as const) : ('succeeded' as const);
  const running = { ...ids, state: 'running' as const };
  const ended = { ...ids, state: end, exit_code: end === 'failed' ? 7 : 0, output: { stdout: EMPTY, stderr: EMPTY } };
  for (const report of [running, signed(node, ended)])
    await surely('a report', () => on.asNode().call(pushStatus, { body: { reports: [report] } }));
  return {
    executionId: ids.execution_id,
    states: ['queued', 'delivered', 'running', end].map((state) => `execution.${state}`),
  };
};

/** As every client does: the servers' transactions may hold up one another, and one of them is told to come again. */
const again: Surely = async (what, work) => {
  const answers: Awaited<ReturnType<typeof work>>[] = [];
  await waitFor(what, () =>
    work().then(
      (answered) => {
        answers.push(answered as (typeof answers)[number]);
        return true;
      },
      (error: unknown) => {
        if (error instanceof Refused && error.status === 503) return false;
        throw error;
      },
    ),
  );
  return answers[0];
};

const inLanes = async (count: number, work: (nth: number) => Promise<Life>): Promise<Life[]> => {
  const lives: Life[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let nth = next++; nth < count; nth = next++) lives.push(await work(nth));
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  return lives;
};

const judge = (lines: readonly Line[], lives: readonly Life[]): void => {
  expect(lines.filter(({ type }) => !type.startsWith('execution.'))).toEqual([]); // no gap
  const ids = lines.map(({ id }) => Number(id));
  expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b));
  const told = new Map<string, string[]>();
  for (const { type, execution_id } of lines)
    told.set(String(execution_id), [...(told.get(String(execution_id)) ?? []), type]);
  expect(Object.fromEntries(told)).toEqual(
    Object.fromEntries(lives.map(({ executionId, states }) => [executionId, states])),
  );
};

const COUNT = 200;
const COUNT_OF_TWO = 100;

test.each(['sqlite', 'postgres'] as const)(
  '%s: a reader that comes and goes, a server that is killed',
  async (storage) => {
    await using mortal = mortalServer(storage === 'postgres' ? { database_url: await freshDatabase() } : {});
    const { server, surely, client } = mortal;
    await mortal.start();
    const nodes = await Promise.all(['n1', 'n2', 'n3'].map((name) => mortal.enrol(name)));
    const reader = restlessReader(mortal.url, null, seededRandom(7), { type: 'execution' });
    let killed = 0;
    const lives = await inLanes(COUNT, async (nth) => {
      if (nth === COUNT / 4 || nth === COUNT / 2) {
        killed++;
        await server.kill9();
      }
      const node = nodes[nth % nodes.length];
      if (!node) throw new Error('no node');
      return live({ nth, node, operator: () => client(), asNode: () => client(node.token), surely });
    });
    await waitFor('the reader to have everything', () => reader.lines.length >= COUNT * 4);
    await reader.stop();
    judge(reader.lines, lives);
    expect(killed).toBe(2);
    expect(reader.lives()).toBeGreaterThan(5);
  },
);

test('postgres: two servers write, a reader changes between them', async () => {
  const databaseUrl = await freshDatabase();
  await using one = await startTestServer({ databaseUrl });
  await using other = await startTestServer({ databaseUrl, dataDir: one.dataDir });
  const servers: TestServer[] = [one, other];
  const token = await issueToken({ dataDir: one.dataDir, databaseUrl, role: 'viewer', name: 'reader' });
  const nodes = await Promise.all(['n1', 'n2', 'n3'].map((name) => one.enrol(name)));
  const random = seededRandom(11);
  const either = (): TestServer => servers[random() < 0.5 ? 0 : 1] ?? one;
  const readers = [1, 2].map(() => restlessReader(() => either().url, token, random, { type: 'execution' }));
  const lives = await inLanes(COUNT_OF_TWO, async (nth) => {
    const node = nodes[nth % nodes.length];
    if (!node) throw new Error('no node');
    return live({
      nth,
      node,
      operator: () => either().as('operator'),
      asNode: () => either().withToken(node.token),
      surely: again,
    });
  });
  for (const reader of readers) {
    await waitFor('the reader to have everything', () => reader.lines.length >= COUNT_OF_TWO * 4);
    await reader.stop();
    judge(reader.lines, lives);
  }
});
