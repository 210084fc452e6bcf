import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import type { Storage } from '../tables.ts';
import type { AuditRow } from './tables.ts';

/** What was refused to a node that asked for what it may not: a line in the server's log, and a row. The newest rows of each node
 *  are kept; a node that asks without end is counted instead of written. */

const KEPT_PER_NODE = 1000;
const PER_MINUTE = 120;
const MINUTE_MS = 60_000;
const COUNTED_NODES = 10_000;
const ASKED_CHARS = 4096;

export interface Refused {
  nodeUid: string;
  runId: string | null;
  action: string;
  reason: string;
  asked: unknown;
}

export const auditService = (on: { storage: Storage; clock: Clock; newId: () => string; log: Log }) => {
  const counts = new Map<string, { since: number; written: number; skipped: number }>();
  const countOf = (uid: string) => {
    const now = on.clock.now();
    const known = counts.get(uid);
    if (known && Math.abs(now - known.since) < MINUTE_MS) return known;
    const fresh = { since: now, written: 0, skipped: known?.skipped ?? 0 };
    counts.delete(uid);
    if (counts.size >= COUNTED_NODES) counts.delete(counts.keys().next().value ?? '');
    counts.set(uid, fresh);
    return fresh;
  };
  return {
    record: async ({ nodeUid, runId, action, reason, asked }: Refused): Promise<void> => {
      const count = countOf(nodeUid);
      if (count.written >= PER_MINUTE) {
        count.skipped++;
        return;
      }
      count.written++;
      const skipped = count.skipped;
      count.skipped = 0;
      const row: AuditRow = {
        id: on.newId(),
        at: on.clock.now(),
        node_uid: nodeUid,
        run_id: runId,
        action,
        reason: skipped === 0 ? reason : `${reason} (${skipped} refusals before this one were only counted)`,
        asked: (JSON.stringify(asked) ?? 'null').replaceAll('\\u0000', '\\ufffd').slice(0, ASKED_CHARS).toWellFormed(),
      };
      on.log.warn({ node_uid: nodeUid, run_id: runId, action, reason: row.reason }, 'a node asked for what it may not');
      await on.storage.write('backups.audit', async (tx) => {
        await tx.insertInto('backups_audit').values(row).execute();
        const oldest = await tx
          .selectFrom('backups_audit')
          .select('id')
          .where('node_uid', '=', nodeUid)
          .orderBy('id', 'desc')
          .offset(KEPT_PER_NODE)
          .limit(1)
          .executeTakeFirst();
        if (oldest)
          await tx.deleteFrom('backups_audit').where('node_uid', '=', nodeUid).where('id', '<=', oldest.id).execute();
      });
    },
  };
};
export type AuditService = ReturnType<typeof auditService>;
