import { createHash } from 'node:crypto';
import { PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import type { PostedReport, Report } from '@aegis/protocol/commands/carrier';
import {
  ackCommands,
  listExecutions,
  pollCommands,
  pushStatus,
  putOutput,
  showCommand,
  submitCommand,
} from '@aegis/protocol/commands/endpoints';
import type { Command, Execution, Submission } from '@aegis/protocol/commands/submission';
import type { EnrolledNode, TestServer } from './start-test-server.ts';
import { Refused } from './test-client.ts';

/** What the tests of the commands domain say often. */

export const STORAGES = ['sqlite', 'postgres'] as const;

export const sha256 = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
export const EMPTY = { bytes: 0, sha256: sha256('') };

export const submit = (server: TestServer, submission: Partial<Submission>) =>
  server.as('operator').call(submitCommand, {
    body: { command_type: 'exec', payload: { argv: ['true'] }, ...submission },
  });

/** Submits to one node and answers the ids. */
export const submitTo = async (server: TestServer, node: string, submission: Partial<Submission> = {}) => {
  const answer = await submit(server, { targets: [node], ...submission });
  return { commandId: answer.command_id ?? '', executionId: answer.targets[0]?.execution_id ?? '' };
};

export const poll = (node: EnrolledNode, query: { wait?: number; resume?: 'true' } = {}) =>
  node.call(pollCommands, { query });
export const ack = (node: EnrolledNode, ...ids: string[]) => node.call(ackCommands, { body: { ids } });
export const put = (node: EnrolledNode, id: string, stream: 'stdout' | 'stderr', offset: number, bytes: Uint8Array) =>
  node.call(putOutput, { params: { id, stream }, query: { offset }, body: bytes });

/** A report as our daemon posts it: signed when it is final. */
export const signed = (node: EnrolledNode, fields: Report): PostedReport => ({
  ...fields,
  report: signEnvelope(PAYLOAD_TYPES.report, fields, node.keys),
});
export const report = (node: EnrolledNode, ...reports: PostedReport[]) => node.call(pushStatus, { body: { reports } });
/** One final report with everything that it needs. */
export const finish = (
  node: EnrolledNode,
  ids: { commandId: string; executionId: string },
  fields: Partial<Report> = {},
) =>
  report(
    node,
    signed(node, {
      command_id: ids.commandId,
      execution_id: ids.executionId,
      state: 'succeeded',
      exit_code: 0,
      output: { stdout: EMPTY, stderr: EMPTY },
      ...fields,
    }),
  );

export const commandOf = (server: TestServer, id: string): Promise<Command> =>
  server.as('viewer').call(showCommand, { params: { id } });
export const executionsOf = async (server: TestServer, id: string): Promise<Execution[]> =>
  (await server.as('viewer').call(listExecutions, { params: { id }, query: { limit: 1000 } })).items;
export const onlyExecution = async (server: TestServer, id: string): Promise<Execution> => {
  const [execution, ...others] = await executionsOf(server, id);
  if (!execution || others.length > 0) throw new Error(`expected one execution, found ${others.length + 1}`);
  return execution;
};

/** Code and status with which something is refused. */
export const refusal = async (work: Promise<unknown>): Promise<[number, string]> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof Refused) return [error.status, error.code];
    throw error;
  }
  throw new Error('it was not refused');
};

/** Waits for a condition with a deadline. */
export const until = async (what: string, condition: () => Promise<boolean> | boolean, deadlineMs = 30_000) => {
  const end = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

/** The depths kept per node against the rows themselves: they may never differ. */
export const queueDrift = async (server: TestServer): Promise<string[]> => {
  const { read } = server.running.storage;
  const depths = await read.selectFrom('commands_queues').selectAll().execute();
  const rows = await read
    .selectFrom('commands_executions')
    .select((of) => ['node_uid', of.fn.countAll<number>().as('queued')])
    .where('state', '=', 'queued')
    .groupBy('node_uid')
    .execute();
  const counted = new Map(rows.map(({ node_uid, queued }) => [node_uid, queued]));
  return depths
    .filter(({ node_uid, queued }) => queued !== (counted.get(node_uid) ?? 0))
    .map(({ node_uid, queued }) => `${node_uid}: ${queued} instead of ${counted.get(node_uid) ?? 0}`);
};
