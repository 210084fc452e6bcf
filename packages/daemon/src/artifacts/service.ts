/** artifacts: which eBPF programs this node runs. Takes assignments by signed directives, fetches and verifies bundles, makes the kernel
 *  equal to what is wished and says how it is; called by the loop over desired state, the control socket and daemon.ts.
 *  Invariant: nothing is loaded that was not assigned by a directive in the journal, signed by a trusted key and verified in the very bytes
 *  that are loaded; what runs goes on without this process and without a server. Must not: delay commands, touch in the kernel what is
 *  not its own, or cost a node without artifacts more than this file (`work.ts` is loaded with the first). */
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import type { AegisError } from '@aegis/protocol/errors';
import { backoff } from '../platform/http/backoff.ts';
import { sendKernelReport } from './kernel-report.ts';
import type { ReconcileStatus } from './reconcile-item.ts';
import { artifactsState } from './repository.ts';
import { type ArtifactView, artifactViews } from './view.ts';
import type { ArtifactsWork, WorkOptions } from './work.ts';

export interface ArtifactsOptions extends Omit<WorkOptions, 'state' | 'signal'> {
  kernelReport: { of: string; probe(): Promise<KernelReport>; delayMs: number } | null;
}

export type ArtifactsStatus = ReconcileStatus;
export type ArtifactsService = ReturnType<typeof artifactsService>;

const NOTHING: ArtifactsStatus = { assigned: 0, attached: 0, waiting: 0, failed: 0, problems: [] };
const LOAD_AGAIN_MS = 60_000;

export const artifactsService = (options: ArtifactsOptions) => {
  const { journal, client, log, random, kernelReport } = options;
  const state = artifactsState(journal);
  const stopping = new AbortController();
  const { signal } = stopping;
  let work: ArtifactsWork | null = null;
  let loading: Promise<ArtifactsWork> | null = null;
  let reported = false;

  const load = (): Promise<ArtifactsWork> => {
    loading ??= import('./work.ts')
      .then(({ artifactsWork }) => artifactsWork({ ...options, state, signal }))
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
      log.error({ err: error, retry_ms: LOAD_AGAIN_MS }, 'cannot see to the artifacts, trying again');
      setTimeout(loadWhenBusy, LOAD_AGAIN_MS).unref();
    });
  };

  return {
    /** Before the carrier: what the journal holds is attached again without a server. */
    start: loadWhenBusy,
    /** Journals what is good of these directives, and sets about it. */
    take: async (directives: readonly unknown[]): Promise<void> => (await load()).take(directives),
    /** The server answers for the first time since it did not. */
    reached: (): void => {
      if (reported || !kernelReport) return;
      reported = true;
      void sendKernelReport({
        ...kernelReport,
        client,
        state,
        journal,
        backoff: backoff({ random, firstMs: 10_000 }),
        log,
        signal,
      });
    },
    trustChanged: (): void => work?.trustChanged(),
    /** Compares everything with the kernel now. */
    reconcile: async (): Promise<void> => {
      if (work || state.busy()) await (await load()).reconcileNow();
    },
    status: (): ArtifactsStatus => work?.status() ?? NOTHING,
    views: (): ArtifactView[] => artifactViews(journal),
    /** Hourly. */
    tidy: (): void => {
      work?.tidy().catch((error: AegisError) => log.error({ err: error }, 'cannot tidy the artifacts'));
    },
    /** Waits for the call into the kernel that is under way; programs stay attached. */
    stop: async (): Promise<void> => {
      stopping.abort();
      await (await loading?.catch(() => null))?.stopped();
    },
  };
};
