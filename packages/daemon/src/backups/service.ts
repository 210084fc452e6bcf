/** backups: what this node backs up, when, and how it gets it to its destination and back. Takes configurations by signed directives, runs
 *  them on their schedules and on request, and tells how they ended; called by the loop over desired state, the control socket and daemon.ts.
 *  Invariant: nothing is backed up but what a directive in the journal says; a run is `completed` only when everything of it lies at its
 *  destination under a statement that this node signed; no credential is on disk, in a log or in an argument. Must not: delay commands, trust
 *  the server for what is restored, or cost a node without configurations more than this file (`work.ts` is loaded with the first). */

import { backupsState } from './repository.ts';
import type { RestoreRequest } from './restore.ts';
import type { BackupsStatus, BackupView } from './view.ts';
import type { BackupsWork, WorkOptions } from './work.ts';

export type BackupsOptions = Omit<WorkOptions, 'state' | 'signal'>;
export type BackupsService = ReturnType<typeof backupsService>;

/** Takes a line of what is told meanwhile; resolves when the next may come. */
export type Tell = (line: unknown) => Promise<void>;

const NOTHING: BackupsStatus = { configs: 0, running: 0, queued: 0, unreported: 0, failed: [] };
const LOAD_AGAIN_MS = 60_000;

export const backupsService = (options: BackupsOptions) => {
  const { journal, log } = options;
  const state = backupsState(journal);
  const stopping = new AbortController();
  const { signal } = stopping;
  let work: BackupsWork | null = null;
  let loading: Promise<BackupsWork> | null = null;

  const load = (): Promise<BackupsWork> => {
    loading ??= import('./work.ts')
      .then(({ backupsWork }) => backupsWork({ ...options, state, signal }))
      .then((loaded) => {
        work = loaded;
        loaded.start();
        return loaded;
      })
      .catch((error: unknown) => {
        loading = null;
        throw error;
      });
    return loading;
  };
  const loadWhenBusy = (): void => {
    if (work || loading || signal.aborted || !state.busy()) return;
    load().catch((error: unknown) => {
      log.error({ err: error, retry_ms: LOAD_AGAIN_MS }, 'cannot see to the backups, trying again');
      setTimeout(loadWhenBusy, LOAD_AGAIN_MS).unref();
    });
  };

  return {
    /** Before the carrier: schedules hold without a server, and what was begun goes on. */
    start: loadWhenBusy,
    /** Journals what is good of these directives, and sets about it. */
    take: async (directives: readonly unknown[]): Promise<void> => (await load()).take(directives),
    /** The server answers for the first time since it did not. */
    reached: (): void => work?.reached(),
    /** Runs a configuration now; ends with a line that says how it ended. `asker` ending cancels it.
     *  @throws AegisError backups.unknown_config, backups.busy */
    run: async (name: string, tell: Tell, asker: AbortSignal): Promise<void> => (await load()).run(name, tell, asker),
    /** @throws AegisError backups.* */
    restore: async (request: RestoreRequest, tell: Tell, asker: AbortSignal): Promise<void> =>
      (await load()).restore(request, tell, asker),
    status: (): BackupsStatus => work?.status() ?? NOTHING,
    views: async (): Promise<BackupView[]> => (work || state.busy() ? (await load()).views() : []),
    /** Hourly. */
    tidy: (): void => {
      work?.tidy().catch((error: unknown) => log.error({ err: error }, 'cannot tidy the backups'));
    },
    /** What runs stops where it is; the next start goes on with it. */
    stop: async (): Promise<void> => {
      stopping.abort();
      await (await loading?.catch(() => null))?.stopped();
    },
  };
};
