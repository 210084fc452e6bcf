import { MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import type { Journal } from '../platform/journal/journal.ts';
import type { Seen } from './verify-directive.ts';

/** The directives that this node accepted, for the longest lifetime of one, and the floor below which it accepts none.
 *  Rows leave only together with a floor that covers them, so a replay is refused either as seen or as too old. */
export interface SeenDirectives extends Seen {
  /** Inside the transaction that journals the directive. False when it was there already. */
  add(directiveId: string, attempt: number, issuedAtMs: number): boolean;
  /** Forgets what is older than a directive can live, and the oldest beyond the row limit. One transaction when there is any. */
  prune(nowMs: number): void;
  count(): number;
}

export const seenDirectives = ({ journal, maxRows }: { journal: Journal; maxRows: number }): SeenDirectives => {
  const { db } = journal;
  const has = db.prepare<[Buffer, number], number>('SELECT 1 FROM seen WHERE id = ? AND attempt = ?').pluck();
  const add = db.prepare<[Buffer, number, number]>(
    'INSERT OR IGNORE INTO seen (id, attempt, issued_at_ms) VALUES (?, ?, ?)',
  );
  const readFloor = db.prepare<[], string>("SELECT value FROM state WHERE key = 'seen_floor_ms'").pluck();
  const writeFloor = db.prepare<[string]>(
    "INSERT INTO state (key, value) VALUES ('seen_floor_ms', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
  );
  const newestAtOrBefore = db
    .prepare<[number], number | null>('SELECT max(issued_at_ms) FROM seen WHERE issued_at_ms <= ?')
    .pluck();
  const removeUpTo = db.prepare<[number]>('DELETE FROM seen WHERE issued_at_ms <= ?');
  const count = db.prepare<[], number>('SELECT count(*) FROM seen').pluck();
  const nthOldest = db
    .prepare<[number], number>('SELECT issued_at_ms FROM seen ORDER BY issued_at_ms LIMIT 1 OFFSET ?')
    .pluck();

  let floorMs = Number(readFloor.get() ?? Number.NEGATIVE_INFINITY);
  const idBytes = (id: string): Buffer => Buffer.from(id.replaceAll('-', ''), 'hex');

  return {
    has: (id, attempt) => has.get(idBytes(id), attempt) !== undefined,
    floorMs: () => floorMs,
    add: (id, attempt, issuedAtMs) => add.run(idBytes(id), attempt, issuedAtMs).changes === 1,
    count: () => count.get() ?? 0,
    prune: (nowMs) => {
      const surplus = (count.get() ?? 0) - maxRows;
      const byCount = surplus > 0 ? (nthOldest.get(surplus - 1) ?? Number.NEGATIVE_INFINITY) : Number.NEGATIVE_INFINITY;
      const newest = newestAtOrBefore.get(Math.max(nowMs - MAX_LIFETIME_MS, byCount));
      if (newest === null || newest === undefined) return;
      const floor = Math.max(floorMs, newest);
      journal.transaction('seen-prune', () => {
        removeUpTo.run(newest);
        writeFloor.run(String(floor));
      });
      floorMs = floor; // after the commit: a failed one must not refuse what is still remembered
    },
  };
};
