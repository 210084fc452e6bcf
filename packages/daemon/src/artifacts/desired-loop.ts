import type { artifactsForHost } from '@aegis/protocol/artifacts/endpoints';
import { endpoint } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';

/** The one loop that fetches desired state: woken when the server names a revision that is not the one held here. Commands never wait
 *  for it. The revision is held only once its directives are in the journal, in the same commit. */

export interface DesiredLoopOptions {
  client: HttpClient;
  nodeUid: string;
  /** Fetches the trust bundle when this version is newer than what is here.
   *  @throws Unreachable, or AegisError when what came is refused */
  refreshTrust(version: number): Promise<void>;
  held(): number;
  /** Journals the directives and the revision. */
  take(directives: readonly unknown[], revision: number): Promise<void>;
  backoff: Backoff;
  log: Logger;
  signal: AbortSignal;
}

type ForHost = typeof artifactsForHost;
type Path = Pick<ForHost, 'id' | 'door' | 'method' | 'path' | 'caller' | 'tag'>;
const path: Path = {
  id: 'artifactsForHost',
  door: 'registry',
  method: 'GET',
  path: '/artifacts/for-host/{host_id}',
  caller: 'viewer-or-node',
  tag: 'artifacts',
};
const Count = z.int().check(z.minimum(0));
/** What the node obeys of the answer. Directives are read one by one, so that one that this release does not understand does not hide
 *  the others; the protocol's own schema would cost an idle daemon all of the artifacts' schemas. */
const forHost = endpoint({
  ...path,
  summary: '',
  response: z.object({ directives: z.array(z.unknown()), revision: Count, trust_version: Count }),
});

export type DesiredLoop = ReturnType<typeof desiredLoop>;

export const desiredLoop = (options: DesiredLoopOptions) => {
  const { client, nodeUid, refreshTrust, held, take, backoff, log, signal } = options;
  /** What the server named last, until it is fetched. */
  let told: number | null = null;
  let running: Promise<void> | null = null;

  const fetchOnce = async (): Promise<void> => {
    const asked = told;
    const before = held();
    const answer = await client.call(forHost, { params: { host_id: nodeUid }, signal });
    try {
      await refreshTrust(answer.trust_version);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      // Who was trusted before still is: what they signed can be taken.
      log.error({ err: error, code: error.code }, `the new trust bundle is refused: ${error.message}`);
    }
    await take(answer.directives, answer.revision);
    // A server that names one revision and gives another is asked again, but not in a hurry.
    if (answer.revision === before && asked !== before) await pause(backoff.next(), signal);
    else backoff.reset();
    if (told === asked) told = null;
  };

  const run = async (): Promise<void> => {
    while (told !== null && !signal.aborted) {
      try {
        await fetchOnce();
      } catch (error) {
        if (signal.aborted) return;
        const retryMs = backoff.next(error instanceof Unreachable ? error.retryAfterMs : 0);
        if (backoff.failures === 1)
          log.warn({ err: error, retry_ms: Math.round(retryMs) }, 'cannot take desired state yet, trying again');
        await pause(retryMs, signal);
      }
    }
  };

  return {
    /** Held, or about to be. */
    known: (): number => told ?? held(),
    wake: (revision: number): void => {
      told = revision;
      if (signal.aborted) return;
      running ??= run().finally(() => {
        running = null;
      });
    },
    stopped: async (): Promise<void> => {
      await running;
    },
  };
};
