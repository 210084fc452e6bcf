import { MessageReply } from '@aegis/protocol/messages/message';
import * as z from 'zod/mini';
import type { Journal } from '../platform/journal/journal.ts';

/** The messages that this node took, in the journal: which were begun, and what came of them, for as long as they may come again. */

export const Outcome = z.union([
  z.strictObject({ reply: MessageReply }),
  z.strictObject({ error: z.strictObject({ code: z.string(), message: z.string() }) }),
]);
export type Outcome = z.infer<typeof Outcome>;

export const messagesRepository = (journal: Pick<Journal, 'db' | 'group' | 'transaction'>) => {
  const { db } = journal;
  const read = db.prepare<[string], { outcome: string | null }>('SELECT outcome FROM messages WHERE id = ?');
  const insert = db.prepare<[string, string, number]>(
    'INSERT INTO messages (id, channel, keep_until_ms) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING',
  );
  const finish = db.prepare<[string, string]>('UPDATE messages SET outcome = ? WHERE id = ?');
  const remove = db.prepare<[number]>('DELETE FROM messages WHERE keep_until_ms < ?');
  const any = db.prepare<[number], number>('SELECT 1 FROM messages WHERE keep_until_ms < ? LIMIT 1').pluck();
  const size = db.prepare<[], { count: number; chars: number }>(
    'SELECT count(*) AS count, coalesce(sum(length(outcome)), 0) AS chars FROM messages',
  );
  return {
    /** Undefined: it never came. A null outcome: it was begun. */
    find: (id: string): { outcome: Outcome | null } | undefined => {
      const row = read.get(id);
      return row && { outcome: row.outcome === null ? null : z.parse(Outcome, JSON.parse(row.outcome)) };
    },
    /** On disk when it resolves. */
    begin: (id: string, channel: string, keepUntilMs: number): Promise<void> =>
      journal.group('message-begin', () => void insert.run(id, channel, keepUntilMs)),
    /** The same. */
    finish: (id: string, outcome: Outcome): Promise<void> =>
      journal.group('message-end', () => void finish.run(JSON.stringify(outcome), id)),
    forget: (beforeMs: number): void => {
      if (any.get(beforeMs) !== undefined) journal.transaction('message-forget', () => void remove.run(beforeMs));
    },
    size: (): { count: number; chars: number } => size.get() ?? { count: 0, chars: 0 },
  };
};
export type MessagesRepository = ReturnType<typeof messagesRepository>;
