import type { Envelope } from '@aegis/protocol/access/dsse';
import { AegisError } from '@aegis/protocol/errors';
import type { Storage } from '../tables.ts';

/** Operators' own cancels of a command, kept beside it: what strict nodes are offered together with the server's. */

export interface OperatorCancel {
  /** As the operator named it; null: on all nodes. */
  node: string | null;
  envelope: Envelope;
}

/** Of single nodes; one for all of them is always taken. */
const MAX_KEPT = 1000;

/** In place of the one for the same node: nobody's is dropped for another node's. @throws AegisError commands.not_cancellable */
export const withCancel = (before: readonly OperatorCancel[], cancel: OperatorCancel): OperatorCancel[] => {
  const others = before.filter(({ node }) => node !== cancel.node);
  if (cancel.node !== null && others.length >= MAX_KEPT)
    throw new AegisError(
      'commands.not_cancellable',
      `This command has signed cancels for ${MAX_KEPT} nodes, one by one, and keeps no more: cancel it on all nodes at once, without --node.`,
    );
  return [...others, cancel];
};

export const operatorCancels = (storage: Storage) => ({
  /** Before anything is cancelled, so that no offer goes without it. @throws AegisError commands.not_cancellable */
  add: (commandId: string, cancel: OperatorCancel): Promise<void> =>
    storage.write('commands.operator-cancel', async (tx) => {
      const row = await tx
        .selectFrom('commands')
        .select('operator_cancels')
        .where('id', '=', commandId)
        .$if(storage.kind === 'postgres', (query) => query.forUpdate())
        .executeTakeFirst();
      if (!row) return; // its retention ended
      const before = JSON.parse(row.operator_cancels ?? '[]') as OperatorCancel[];
      await tx
        .updateTable('commands')
        .set({ operator_cancels: JSON.stringify(withCancel(before, cancel)) })
        .where('id', '=', commandId)
        .execute();
    }),
});
export type OperatorCancels = ReturnType<typeof operatorCancels>;

/** The newest that was meant for this node, or for all. */
export const cancelFor = (text: string, { uid, name }: { uid: string; name: string }): Envelope | undefined =>
  (JSON.parse(text) as OperatorCancel[]).findLast(({ node }) => node === null || node === uid || node === name)
    ?.envelope;
