import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Storage } from '../tables.ts';

/** Operators' own cancels of a command, kept beside it: what strict nodes are offered together with the server's. */

export interface OperatorCancel {
  /** As the operator named it; null: on all nodes. */
  node: string | null;
  envelope: Envelope;
}

/** The newest of so many. */
const KEPT = 8;

export const operatorCancels = (storage: Storage) => ({
  /** Before anything is cancelled, so that no offer goes without it. */
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
        .set({ operator_cancels: JSON.stringify([...before, cancel].slice(-KEPT)) })
        .where('id', '=', commandId)
        .execute();
    }),
});
export type OperatorCancels = ReturnType<typeof operatorCancels>;

/** The newest that was meant for this node, or for all. */
export const cancelFor = (text: string, { uid, name }: { uid: string; name: string }): Envelope | undefined =>
  (JSON.parse(text) as OperatorCancel[]).findLast(({ node }) => node === null || node === uid || node === name)
    ?.envelope;
