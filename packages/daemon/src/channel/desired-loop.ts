import { endpoint } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { nodeDesired } from '@aegis/protocol/nodes/endpoints';
import * as z from 'zod/mini';
import { pause } from '../platform/clock.ts';
import type { Backoff } from '../platform/http/backoff.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';

/** The one loop that fetches desired state: woken when the server names a revision that is not the one held here. Commands never wait
 *  for it. Directives go by their kind to whoever takes them, who journals what it takes; the revision is journaled after all of them. */

/** Journals what is good of these; taking the same again changes nothing. @throws when nothing was taken: all are fetched again */
export type TakeDirectives = (directives: readonly unknown[]) => Promise<void>;

export interface DesiredLoopOptions {
  client: HttpClient;
  journal: Pick<Journal, 'db' | 'group'>;
  /** Fetches the trust bundle when this version is newer than what is here.
   *  @throws Unreachable, or AegisError when what came is refused */
  refreshTrust(version: number): Promise<void>;
  /** Which of the server's and of the operators' are to be looked at here. */
  choose(servers: readonly unknown[], operators: readonly unknown[]): readonly unknown[];
  /** By the directives' kind. */
  takers: Readonly<Record<string, TakeDirectives>>;
  backoff: Backoff;
  log: Logger;
  signal: AbortSignal;
}

type Path = Pick<typeof nodeDesired, 'id' | 'door' | 'method' | 'path' | 'caller' | 'tag'>;
const path: Path = {
  id: 'nodeDesired',
  door: 'agent-svc',
  method: 'GET',
  path: '/v1/desired',
  caller: 'node',
  tag: 'nodes',
};
const Count = z.int().check(z.minimum(0));
/** Directives are read one by one, so that one that this release does not understand does not hide the others. */
const answered = endpoint({
  ...path,
  summary: '',
  response: z.object({
    directives: z.array(z.unknown()),
    operator_directives: z._default(z.array(z.unknown()), []),
    revision: Count,
    trust_version: Count,
  }),
});

export type DesiredLoop = ReturnType<typeof desiredLoop>;

export const desiredLoop = (options: DesiredLoopOptions) => {
  const { client, journal, refreshTrust, choose, takers, backoff, log, signal } = options;
  const { held, hold } = desiredRevision(journal);
  /** What the server named last, until it is fetched. */
  let told: number | null = null;
  let running: Promise<void> | null = null;

  /** Each domain gets its own, also when another one cannot take what is for it. */
  const hand = async (directives: readonly unknown[]): Promise<void> => {
    const byKind = new Map<string, unknown[]>();
    for (const one of directives) {
      const kind = kindOf(one);
      byKind.set(kind, [...(byKind.get(kind) ?? []), one]);
    }
    const results = await Promise.allSettled(
      [...byKind].map(async ([kind, some]) => {
        const take = Object.hasOwn(takers, kind) ? takers[kind] : undefined;
        if (take) return take(some);
        const why =
          kind === '' ? 'It is no signed directive.' : `A '${kind}' is no desired state known to this release.`;
        log.warn(
          { code: 'access.bad_directive', directives: some.length },
          `refused a directive of desired state: ${why}`,
        );
      }),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
  };

  const fetchOnce = async (): Promise<void> => {
    const asked = told;
    const before = held();
    const answer = await client.call(answered, { signal });
    try {
      await refreshTrust(answer.trust_version);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      // Who was trusted before still is: what they signed can be taken.
      log.error({ err: error, code: error.code }, `the new trust bundle is refused: ${error.message}`);
    }
    await hand(choose(answer.directives, answer.operator_directives));
    await journal.group('desired-revision', () => hold(answer.revision));
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
    /** The revision whose directives are journaled. */
    held,
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

const KEY = 'desired_revision';
const desiredRevision = ({ db }: Pick<Journal, 'db'>) => {
  const read = db.prepare<[string], string>('SELECT value FROM state WHERE key = ?').pluck();
  const write = db.prepare<[string, string]>(
    'INSERT INTO state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  );
  return {
    held: (): number => Number(read.get(KEY) ?? 0),
    hold: (revision: number): void => void write.run(KEY, String(revision)),
  };
};

/** What it claims to be: enough to find who is to verify it. Empty for what is no directive. */
const kindOf = (one: unknown): string => {
  try {
    const payload = Buffer.from(String((one as { payload?: unknown }).payload), 'base64');
    const { kind } = JSON.parse(payload.toString('utf8')) as { kind?: unknown };
    return typeof kind === 'string' ? kind.slice(0, 64) : '';
  } catch {
    return '';
  }
};
