import type { RunObject } from '@aegis/protocol/backups/run';
import type { Storage, Tx } from '../tables.ts';
import type { UploadRow } from './tables.ts';

/** The SQL of multipart uploads. */
export const uploadsRepository = ({ read, write }: Storage) => ({
  one: (runId: string, attempt: number, object: RunObject): Promise<UploadRow | undefined> =>
    read
      .selectFrom('backups_uploads')
      .selectAll()
      .where('run_id', '=', runId)
      .where('attempt', '=', attempt)
      .where('object', '=', object)
      .executeTakeFirst(),
  ofAttempt: (runId: string, attempt: number): Promise<UploadRow[]> =>
    read
      .selectFrom('backups_uploads')
      .selectAll()
      .where('run_id', '=', runId)
      .where('attempt', '=', attempt)
      .orderBy('object')
      .execute(),
  /** The row that stands then: another one may have been first. */
  insert: async (tx: Tx, row: UploadRow): Promise<UploadRow> => {
    await tx
      .insertInto('backups_uploads')
      .values(row)
      .onConflict((conflict) => conflict.doNothing())
      .execute();
    return tx
      .selectFrom('backups_uploads')
      .selectAll()
      .where('run_id', '=', row.run_id)
      .where('attempt', '=', row.attempt)
      .where('object', '=', row.object)
      .executeTakeFirstOrThrow();
  },
  /** In place of one that was aborted while its attempt goes on. */
  reopen: async (tx: Tx, row: UploadRow): Promise<void> => {
    await tx
      .updateTable('backups_uploads')
      .set({ upload_id: row.upload_id, key: row.key, opened_at: row.opened_at, aborted_at: null })
      .where('run_id', '=', row.run_id)
      .where('attempt', '=', row.attempt)
      .where('object', '=', row.object)
      .where('closed_at', 'is', null)
      .execute();
  },
  setClosed: (row: UploadRow, closed: { at: number; bytes: number; sha256: string | null }): Promise<void> =>
    write('backups.upload-closed', async (tx) => {
      await tx
        .updateTable('backups_uploads')
        .set({ closed_at: closed.at, bytes: closed.bytes, sha256: closed.sha256 })
        .where('run_id', '=', row.run_id)
        .where('attempt', '=', row.attempt)
        .where('object', '=', row.object)
        .where('upload_id', '=', row.upload_id)
        .execute();
    }),
  setAborted: (row: UploadRow, at: number): Promise<void> =>
    write('backups.upload-aborted', async (tx) => {
      await tx
        .updateTable('backups_uploads')
        .set({ aborted_at: at })
        .where('run_id', '=', row.run_id)
        .where('attempt', '=', row.attempt)
        .where('object', '=', row.object)
        .where('upload_id', '=', row.upload_id)
        .where('closed_at', 'is', null)
        .execute();
    }),
  /** Neither completed nor aborted, of attempts up to this one. */
  openUpTo: (runId: string, attempt: number): Promise<UploadRow[]> =>
    read
      .selectFrom('backups_uploads')
      .selectAll()
      .where('run_id', '=', runId)
      .where('attempt', '<=', attempt)
      .where('closed_at', 'is', null)
      .where('aborted_at', 'is', null)
      .orderBy('attempt')
      .execute(),
  /** Left open by attempts that are over, whatever the reason was; oldest first. */
  leftOpen: (now: number, limit: number): Promise<UploadRow[]> =>
    read
      .selectFrom('backups_uploads as u')
      .innerJoin('backups_runs as r', 'r.id', 'u.run_id')
      .selectAll('u')
      .where('u.closed_at', 'is', null)
      .where('u.aborted_at', 'is', null)
      .where((where) =>
        where.or([
          where('r.state', 'in', ['completed', 'completed_with_errors', 'failed', 'cancelled']),
          where('r.attempt', '>', where.ref('u.attempt')),
          where('r.removed_at', 'is not', null),
          // It may not be written to any more, even if its node comes back.
          where.and([where('r.state', '=', 'lost'), where('r.deadline_at', '<=', now)]),
        ]),
      )
      .orderBy('u.opened_at')
      .limit(limit)
      .execute(),
});
export type UploadsRepository = ReturnType<typeof uploadsRepository>;
