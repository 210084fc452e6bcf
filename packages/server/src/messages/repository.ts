import type { Selectable } from 'kysely';
import { forUpdate } from '../platform/storage/for-update.ts';
import type { Tell, Told } from '../platform/told.ts';
import type { Storage, Tx } from '../tables.ts';
import type { MessagesTables } from './tables.ts';
import type { Sealed } from './vault.ts';
import { claimOf, type Ending, endedBy, errorOf } from './verdict.ts';

/** The SQL of the message queue. */

export type MessageRow = Selectable<MessagesTables['message_queue']>;
/** Of a message that ends: sealed where there is something to say. */
export interface StoredEnding extends Pick<Ending, 'status' | 'code'> {
  sealed: Sealed | null;
}

const ROWS_PER_WRITE = 200;

/** What listeners learn: neither what it says nor what the node said. */
const toldOf = (
  row: Pick<MessageRow, 'id' | 'agent_id' | 'agent_name' | 'channel'>,
  { status, code }: { status: MessageRow['status']; code: Ending['code'] },
): Told => ({
  type: `message.${status}`,
  node: { uid: row.agent_id, name: row.agent_name },
  data: { message_id: row.id, channel: row.channel, error: code === null ? null : errorOf(code, null) },
});

/** @param tell of each change of state, in the transaction that makes it */
export const messagesRepository = (storage: Storage, tell: Tell) => {
  const { read } = storage;
  const end = (ending: StoredEnding, now: number) => ({
    status: ending.status,
    processed_at: now,
    error_code: ending.code,
    encrypted_outcome: ending.sealed?.text ?? null,
    outcome_nonce: ending.sealed?.nonce ?? null,
  });
  /** The nodes of these that have no room for one more. */
  const fullOf = async (tx: Tx, agentIds: readonly string[], most: number): Promise<Set<string>> => {
    const rows = await tx
      .selectFrom('message_queue')
      .select(({ fn }) => ['agent_id', fn.countAll<number | string>().as('waiting')])
      .where('agent_id', 'in', agentIds)
      .where('processed_at', 'is', null)
      .groupBy('agent_id')
      .execute();
    return new Set(rows.flatMap((row) => (Number(row.waiting) >= most ? [row.agent_id] : [])));
  };

  return {
    /** @returns the nodes whose queue is full: their rows are not added */
    add: async (rows: readonly MessageRow[], most: number): Promise<Set<string>> => {
      const refused = new Set<string>();
      for (let at = 0; at < rows.length; at += ROWS_PER_WRITE) {
        const some = rows.slice(at, at + ROWS_PER_WRITE);
        const full = await storage.write('messages.add', async (tx) => {
          const full = await fullOf(
            tx,
            some.map((row) => row.agent_id),
            most,
          );
          const taken = some.filter((row) => !full.has(row.agent_id));
          if (taken.length > 0) await tx.insertInto('message_queue').values(taken).execute();
          await tell(
            tx,
            taken.map((row) => toldOf(row, { status: 'queued', code: null })),
          );
          return full;
        });
        for (const one of full) refused.add(one);
      }
      return refused;
    },
    byId: (agentId: string, id: string): Promise<MessageRow | undefined> =>
      read
        .selectFrom('message_queue')
        .selectAll()
        .where('agent_id', '=', agentId)
        .where('id', '=', id)
        .executeTakeFirst(),
    /** The oldest that waits on the channel. */
    headOf: (agentId: string, channel: string): Promise<MessageRow | undefined> =>
      read
        .selectFrom('message_queue')
        .selectAll()
        .where('agent_id', '=', agentId)
        .where('channel', '=', channel)
        .where('processed_at', 'is', null)
        .orderBy('id')
        .limit(1)
        .executeTakeFirst(),
    /** Channels on which something waits, at most so many, one index look-up for each: a queue may be long. */
    channelsOf: async (agentId: string, most: number): Promise<string[]> => {
      const channels: string[] = [];
      while (channels.length < most) {
        const next = await read
          .selectFrom('message_queue')
          .select('channel')
          .where('agent_id', '=', agentId)
          .where('channel', '>', channels.at(-1) ?? '')
          .where('processed_at', 'is', null)
          .orderBy('channel')
          .limit(1)
          .executeTakeFirst();
        if (!next) break;
        channels.push(next.channel);
      }
      return channels;
    },
    /** Notes that the node is given it now. @returns null when it must not be: it has ended, or ends by this */
    claim: (agentId: string, id: string, now: number): Promise<MessageRow | null> =>
      storage.write('messages.claim', async (tx) => {
        const row = await forUpdate(
          storage,
          tx.selectFrom('message_queue').selectAll().where('agent_id', '=', agentId).where('id', '=', id),
        ).executeTakeFirst();
        if (!row || row.processed_at !== null) return null;
        const claimed = claimOf(row, now);
        const set =
          'end' in claimed
            ? end({ ...claimed.end, sealed: null }, now)
            : { status: 'sent' as const, retry_count: claimed.retry_count };
        await tx.updateTable('message_queue').set(set).where('agent_id', '=', agentId).where('id', '=', id).execute();
        await tell(tx, [toldOf(row, 'end' in claimed ? claimed.end : { status: 'sent', code: null })]);
        return 'end' in claimed ? null : { ...row, status: 'sent', retry_count: claimed.retry_count };
      }),
    /** The node could not take it: it waits again. */
    putBack: (row: MessageRow): Promise<void> =>
      storage.write('messages.put-back', async (tx) => {
        const { numUpdatedRows } = await tx
          .updateTable('message_queue')
          .set({ status: 'queued' })
          .where('agent_id', '=', row.agent_id)
          .where('id', '=', row.id)
          .where('processed_at', 'is', null)
          .executeTakeFirst();
        if (numUpdatedRows > 0n) await tell(tx, [toldOf(row, { status: 'queued', code: null })]);
      }),
    /** The first ending counts. */
    finish: (row: MessageRow, ending: StoredEnding, now: number): Promise<void> =>
      storage.write('messages.finish', async (tx) => {
        const { numUpdatedRows } = await tx
          .updateTable('message_queue')
          .set(end(ending, now))
          .where('agent_id', '=', row.agent_id)
          .where('id', '=', row.id)
          .where('processed_at', 'is', null)
          .executeTakeFirst();
        if (numUpdatedRows > 0n) await tell(tx, [toldOf(row, ending)]);
      }),
    endAll: async (tx: Tx, agentId: string, ending: Ending, now: number): Promise<void> => {
      const rows = await tx
        .updateTable('message_queue')
        .set(end({ ...ending, sealed: null }, now))
        .where('agent_id', '=', agentId)
        .where('processed_at', 'is', null)
        .returning(['id', 'agent_id', 'agent_name', 'channel'])
        .execute();
      await tell(
        tx,
        rows.map((row) => toldOf(row, ending)),
      );
    },
    /** What is too old: what waits expires, what was given to a node and not answered a while later, and what ended long ago goes.
     *  @returns how many rows changed, of at most `most` each */
    sweep: async (times: { now: number; sentBefore: number; endedBefore: number }, most: number): Promise<number> => {
      const overdue = await read
        .selectFrom('message_queue')
        .select(['agent_id', 'agent_name', 'channel', 'id'])
        .where('processed_at', 'is', null)
        .where('expires_at', '<=', times.now)
        .where(({ or, eb }) => or([eb('status', '=', 'queued'), eb('expires_at', '<=', times.sentBefore)]))
        .limit(most)
        .execute();
      const old = await read
        .selectFrom('message_queue')
        .select(['agent_id', 'id'])
        .where('processed_at', '<=', times.endedBefore)
        .limit(most)
        .execute();
      if (overdue.length + old.length === 0) return 0;
      const ended = end({ ...endedBy('expired', 'messages.expired'), sealed: null }, times.now);
      await storage.write('messages.sweep', async (tx) => {
        for (const row of overdue) {
          const { numUpdatedRows } = await tx
            .updateTable('message_queue')
            .set(ended)
            .where('agent_id', '=', row.agent_id)
            .where('id', '=', row.id)
            .where('processed_at', 'is', null)
            .executeTakeFirst();
          if (numUpdatedRows > 0n) await tell(tx, [toldOf(row, { status: 'expired', code: 'messages.expired' })]);
        }
        for (const { agent_id, id } of old)
          await tx.deleteFrom('message_queue').where('agent_id', '=', agent_id).where('id', '=', id).execute();
      });
      return overdue.length + old.length;
    },
  };
};
export type MessagesRepository = ReturnType<typeof messagesRepository>;
