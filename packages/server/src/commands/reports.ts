import {
  type NextOffsets,
  type PostedReport,
  type Report,
  STREAMS,
  type Stream,
} from '@aegis/protocol/commands/carrier';
import { type ExecutionState, isFinal, reportedByNode } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import type { Storage, Tx } from '../tables.ts';
import { type ChangeRules, Changes, standingOf } from './changes.ts';
import { decodeChunks } from './chunk-decode.ts';
import { type ChunkPlan, nextOf, type PlacedChunk, planChunks } from './chunk-plan.ts';
import type { PollingNode } from './dispatch.ts';
import type { AttemptKey, ExecutionsRepository } from './executions-repository.ts';
import { type OutputService, unknownExecution } from './output.ts';
import type { OutputRepository } from './output-repository.ts';
import { acknowledge, advanceOutput, applyReport, outputObjection } from './report-effects.ts';
import type { CheckedReport, ReportChecker } from './signed-reports.ts';
import type { StreamHashes } from './stream-hashes.ts';
import type { LiveExecution } from './tables.ts';

/** Acknowledgements and reports: a batch is one transaction, each report is answered for itself. */

export interface ReportOutcome {
  executionId: string;
  state: ExecutionState;
  next: NextOffsets;
  error: AegisError | null;
}
interface Item extends CheckedReport {
  chunks: PlacedChunk[];
}
/** A stream whose hash is not in memory up to `length`: read back, then the report is taken again. */
interface HashWanted {
  executionId: string;
  stream: Stream;
  length: number;
}

interface NodeIds {
  nodeUid: string;
  ids: readonly string[];
}
/** One request's reports that are good so far, with their places in it. */
interface Batch {
  nodeUid: string;
  good: readonly { at: number; item: Item }[];
  /** Taken without a verdict rather than once more. */
  last: boolean;
}
interface Taken {
  outcomes: Map<number, ReportOutcome | { wanted: HashWanted[] }>;
  added: { id: string; plan: ChunkPlan }[];
  topics: string[];
}

const NIL_UUID = '00000000-0000-0000-0000-000000000000';
/** Reading output back races with more output coming in; after so many rounds a report is taken without its verdict. */
const ROUNDS = 3;

export const reportsService = (on: {
  storage: Storage;
  executions: ExecutionsRepository;
  outputRows: OutputRepository;
  output: OutputService;
  hashes: StreamHashes;
  check: ReportChecker;
  bus: Bus;
  rules: () => ChangeRules;
}) => {
  const { storage, executions, outputRows, hashes, bus } = on;

  const load = async (tx: Tx, batches: readonly Batch[]): Promise<Changes> => {
    const ids = new Set<string>();
    const keys: AttemptKey[] = [];
    for (const { nodeUid, good } of batches)
      for (const { item } of good) {
        const { execution_id, command_id, attempt } = item.report;
        if (execution_id) ids.add(execution_id);
        else keys.push({ nodeUid, commandId: command_id, attempt: attempt ?? 1 });
      }
    for (const id of await executions.idsOfAttempts(tx, keys)) ids.add(id);
    const { rows, heads } = await executions.byIds(tx, [...ids]);
    return new Changes(rows, heads, on.rules());
  };

  const publish = (topics: readonly string[]) => {
    for (const topic of topics) bus.publish(topic);
  };

  /** Topics to publish go with the first answer: all of them follow the same commit. */
  const acknowledgeTogether = storage.writeTogether('commands.ack', async (tx, acks: readonly NodeIds[]) => {
    const { rows, heads } = await executions.byIds(tx, [...new Set(acks.flatMap(({ ids }) => ids))]);
    const changes = new Changes(rows, heads, on.rules());
    const known = acks.map(({ nodeUid, ids }) => {
      let count = 0;
      for (const id of new Set(ids)) {
        const row = changes.execution(id);
        if (row?.node_uid !== nodeUid) continue;
        acknowledge(changes, row);
        count++;
      }
      return count;
    });
    const outcome = changes.outcome();
    await executions.save(tx, outcome);
    return known.map((count, at) => ({ known: count, topics: at === 0 ? outcome.topics : [] }));
  });

  const takeTogether = storage.writeTogether('commands.report', (tx, batches: readonly Batch[]) =>
    takeReports(tx, batches),
  );

  return {
    /** @returns how many of the ids were this node's. @throws AegisError commands.unknown_execution when none was */
    acknowledge: async (nodeUid: string, ids: readonly string[]): Promise<number> => {
      if (ids.length === 0) return 0;
      const { known, topics } = await acknowledgeTogether({ nodeUid, ids });
      publish(topics);
      if (known === 0) throw unknownExecution();
      return known;
    },

    /** Results stand in the order of the reports. @throws AegisError http.malformed for chunks that are no base64 */
    report: async (node: PollingNode, posted: readonly PostedReport[]): Promise<ReportOutcome[]> => {
      const items = await Promise.all(posted.map((one) => checked(on.check, node, one)));
      const results: ReportOutcome[] = [];
      let pending = [...items.keys()];
      for (let round = 1; pending.length > 0; round++) {
        const good = pending.flatMap((at) => {
          const item = items[at];
          if (item && 'report' in item) return [{ at, item }];
          if (item) results[at] = item;
          return [];
        });
        if (good.length === 0) break;
        const { outcomes, topics, added } = await takeTogether({ nodeUid: node.uid, good, last: round === ROUNDS });
        for (const { id, plan } of added)
          for (const { stream, from, bytes } of plan.added) hashes.add(id, stream, from, bytes);
        publish(topics);
        const wanted: HashWanted[] = [];
        const again: number[] = [];
        for (const [at, outcome] of outcomes) {
          if ('wanted' in outcome) {
            wanted.push(...outcome.wanted);
            again.push(at);
          } else {
            results[at] = outcome;
            if (isFinal(outcome.state) && !outcome.error) hashes.forget(outcome.executionId);
          }
        }
        for (const { executionId, stream, length } of wanted) await on.output.rehash(executionId, stream, length);
        pending = again;
      }
      return results;
    },
  };

  async function takeReports(tx: Tx, batches: readonly Batch[]): Promise<Taken[]> {
    const changes = await load(tx, batches);
    const taken = batches.map((batch) => takeBatch(changes, batch));
    const outcome = changes.outcome();
    const rows = taken.flatMap(({ added }) => added.flatMap(({ plan }) => plan.rows));
    await executions.save(tx, outcome, outputRows.inserts(rows));
    return taken.map((one, at) => (at === 0 ? { ...one, topics: outcome.topics } : one));
  }

  function takeBatch(changes: Changes, { nodeUid, good, last }: Batch): Taken {
    const outcomes: Taken['outcomes'] = new Map();
    const added: Taken['added'] = [];
    for (const { at, item } of good) {
      const row = find(changes, nodeUid, item.report);
      const refused = row ? mismatch(row, item.report) : unknownExecution();
      if (!row || refused) {
        outcomes.set(at, refusal(item.report, refused ?? unknownExecution(), row));
        continue;
      }
      const storedBefore = nextOf(row);
      const plan = planChunks(row, item.chunks, changes.commandOf(row).output_limit_bytes, changes.now);
      if (plan.rows.length > 0) {
        added.push({ id: row.id, plan });
        advanceOutput(row, plan);
        row.heard_at = changes.now;
        changes.touch(row);
      }
      const objection = plan.error ?? outputObjection(row, item.report);
      if (objection) {
        outcomes.set(at, refusal(item.report, objection, row));
        continue;
      }
      const moves = reportedByNode(standingOf(row), item.report.state) !== null;
      const verdict = moves ? verdictOf(row, item.report, storedBefore, plan) : null;
      if (typeof verdict === 'object' && verdict !== null && !last) {
        outcomes.set(at, { wanted: verdict });
        continue;
      }
      applyReport(changes, row, { ...item, verified: typeof verdict === 'boolean' ? verdict : null });
      outcomes.set(at, { executionId: row.id, state: row.state, next: nextOf(row), error: null });
    }
    return { outcomes, added, topics: [] };
  }

  /** Whether the stored bytes are those that the node hashed: null where that cannot be said, or what must be read back first. */
  function verdictOf(
    row: LiveExecution,
    report: Report,
    storedBefore: NextOffsets,
    plan: ChunkPlan,
  ): boolean | null | HashWanted[] {
    if (!isFinal(report.state) || !report.output || row.stdout_missing + row.stderr_missing > 0) return null;
    const wanted: HashWanted[] = [];
    let verified: boolean | null = true;
    for (const stream of STREAMS) {
      const { sha256 } = report.output[stream];
      if (sha256 === null) {
        verified = verified === false ? false : null;
        continue;
      }
      const more = plan.added.filter((one) => one.stream === stream).map((one) => one.bytes);
      const digest = hashes.digest(row.id, stream, storedBefore[stream], more);
      // With `more` stored in this very transaction the prefix is what is read back; the next round finds all of it stored.
      if (digest === null) wanted.push({ executionId: row.id, stream, length: plan.next[stream] });
      else if (digest !== sha256) verified = false;
    }
    return wanted.length > 0 ? wanted : verified;
  }
};
export type ReportsService = ReturnType<typeof reportsService>;

const checked = async (
  check: ReportChecker,
  node: PollingNode,
  posted: PostedReport,
): Promise<Item | ReportOutcome> => {
  const chunks = decodeChunks(posted.chunks ?? []);
  try {
    return { ...(await check(node, posted)), chunks };
  } catch (error) {
    if (error instanceof AegisError) return refusal(posted, error);
    throw error;
  }
};

/** Only an execution of that node. */
const find = (changes: Changes, nodeUid: string, report: Report): LiveExecution | undefined => {
  if (report.execution_id) {
    const row = changes.execution(report.execution_id);
    return row?.node_uid === nodeUid ? row : undefined;
  }
  const attempt = report.attempt ?? 1;
  for (const row of changes.executions())
    if (row.command_id === report.command_id && row.attempt === attempt && row.node_uid === nodeUid) return row;
  return undefined;
};

const mismatch = (row: LiveExecution, report: Report): AegisError | null =>
  row.command_id === report.command_id && (report.attempt === undefined || report.attempt === row.attempt)
    ? null
    : new AegisError(
        'commands.report_mismatch',
        `The execution ${row.id} is attempt ${row.attempt} of the command ${row.command_id}. Report that, or another execution.`,
      );

/** `state` is what the server holds; for an execution that it does not know, what was reported. */
const refusal = (report: Report, error: AegisError, row?: LiveExecution): ReportOutcome => ({
  executionId: row?.id ?? report.execution_id ?? NIL_UUID,
  state: row?.state ?? report.state,
  next: row ? nextOf(row) : { stdout: 0, stderr: 0 },
  error,
});
