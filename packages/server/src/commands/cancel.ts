import type { Envelope } from '@aegis/protocol/access/dsse';
import { decidedByServer } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import type { Storage, Tx } from '../tables.ts';
import { type ChangeRules, Changes, nodeTopic, standingOf, wasOffered } from './changes.ts';
import type { ExecutionsRepository } from './executions-repository.ts';
import type { ListingRepository } from './listing-repository.ts';
import type { OperatorCancels } from './operator-cancels.ts';
import type { ScopedParts } from './scoped-part.ts';
import type { SignedRequests } from './signed-requests.ts';
import type { LiveExecution } from './tables.ts';

/** What ends executions from this side: an operator's cancel and a node's retirement. What no poll has carried ends at once;
 *  for the rest the end is presumed until the node says so, and the node is told by a directive of its own. */

/** More than one submission makes, retries apart: the rest of a larger one is cancelled in further transactions. */
const BATCH = 2000;

export const cancelService = (on: {
  storage: Storage;
  executions: ExecutionsRepository;
  listing: ListingRepository;
  parts: ScopedParts;
  /** Operators' own. */
  signed: Pick<SignedRequests, 'cancel'>;
  cancels: OperatorCancels;
  clock: Clock;
  bus: Bus;
  newId: () => string;
  rules: () => ChangeRules;
}) => {
  const { storage, executions, bus } = on;
  let late: string[] = [];

  const cancelBatch = (
    commandId: string,
    node: string | undefined,
    within: Within,
  ): Promise<{ ended: number; topics: string[] }> =>
    storage.write('commands.cancel', async (tx) => {
      const rows = await executions.openOfCommand(tx, commandId, BATCH, within, node);
      const heads = rows.length > 0 ? await executions.commandHeads(tx, rows) : [];
      const changes = new Changes(rows, heads, on.rules());
      for (const row of changes.executions()) cancelOne(changes, row, on.newId);
      const outcome = changes.outcome();
      await executions.save(tx, outcome);
      return { ended: rows.length, topics: outcome.topics };
    });

  return {
    /** On the nodes within alone. @throws AegisError commands.unknown_command, unknown_execution for a node that it never went to, not_cancellable */
    cancel: async (
      commandId: string,
      node: string | undefined,
      within: Within,
      directive?: Envelope,
    ): Promise<void> => {
      await on.parts.commandOrThrow(commandId, within);
      if (directive) {
        on.signed.cancel(commandId, node, directive, on.clock.now());
        if (node !== undefined && !(await on.listing.hasNode(commandId, node, within))) throw unknownExecution(node);
        await on.cancels.add(commandId, { node: node ?? null, envelope: directive });
      }
      let ended = 0;
      for (;;) {
        const batch = await cancelBatch(commandId, node, within);
        for (const topic of batch.topics) bus.publish(topic);
        ended += batch.ended;
        if (batch.ended < BATCH) break;
      }
      const again = directive
        ? await storage.write('commands.cancel-again', (tx) =>
            executions.cancelAgain(tx, commandId, on.clock.now(), within, node),
          )
        : [];
      for (const uid of new Set(again)) bus.publish(nodeTopic(uid));
      if (ended + again.length > 0) return;
      if (node !== undefined && !(await on.listing.hasNode(commandId, node, within))) throw unknownExecution(node);
      throw new AegisError('commands.not_cancellable', 'There is nothing left to cancel: it has ended already.');
    },

    /** Part of the transaction that retires a node; its followers are woken by the next `wakeLate`. */
    nodeRetired: async (tx: Tx, nodeUid: string): Promise<void> => {
      for (;;) {
        const rows = await executions.openOfNode(tx, nodeUid, BATCH);
        if (rows.length === 0) return;
        const changes = new Changes(rows, await executions.commandHeads(tx, rows), on.rules());
        for (const row of changes.executions()) {
          const ended = decidedByServer(
            standingOf(row),
            row.state === 'queued' ? 'cancelled' : 'lost',
            wasOffered(row),
          );
          if (!ended) continue;
          row.error_code = 'nodes.retired';
          row.error_message = 'the node was retired';
          changes.settle(row, ended);
        }
        const outcome = changes.outcome();
        await executions.save(tx, outcome);
        late.push(...outcome.topics);
      }
    },
    wakeLate: (): void => {
      const topics = late;
      late = [];
      for (const topic of topics) bus.publish(topic);
    },
  };
};
export type CancelService = ReturnType<typeof cancelService>;

const unknownExecution = (node: string): AegisError =>
  new AegisError(
    'commands.unknown_execution',
    `This command did not go to a node '${node}'. See 'aegis commands show'.`,
  );

export const cancelOne = (changes: Changes, row: LiveExecution, newId: () => string): void => {
  const offered = wasOffered(row);
  const cancelled = decidedByServer(standingOf(row), 'cancelled', offered);
  if (!cancelled) return;
  changes.settle(row, cancelled);
  if (!offered) return;
  row.cancel_id ??= newId(); // asked again: the same directive
  row.cancel_at ??= changes.now;
  row.cancel_due_at = changes.now;
  changes.wakeNode(row.node_uid);
};
