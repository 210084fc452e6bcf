import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import type { Surroundings } from '../surroundings.ts';
import { statusOf } from './status-rows.ts';

/** Waiting until nodes have done what was wished. A server that is away meanwhile is asked again until the time is over. */

export interface Wish {
  node_uid: string;
  node: string;
  name: string;
  generation: number;
  /** Null: taken off. */
  version: string | null;
  /** An operator signed it: a node may have met the server's own before, and refused that. */
  signed?: boolean;
}

export type Settled = 'done' | 'failed' | 'pending';

const EVERY_MS = 250;
/** Many nodes are asked about more rarely: each look is their whole list. */
const MORE_FOR_EACH_MS = 2;
const LONGEST_MS = 3000;

/** What a node's own report says of a wish. A newer wish than ours ends the waiting for ours. */
export const settledOf = (wish: Wish, item: NodeArtifact | undefined): Settled => {
  // Nothing is kept of an artifact once its node has confirmed that it is off.
  if (item === undefined) return wish.version === null ? 'done' : 'pending';
  if (item.generation > wish.generation) return 'failed';
  if (item.generation < wish.generation || item.report === null || item.report.generation < wish.generation)
    return 'pending';
  if (wish.signed && item.report.reason?.code === 'access.policy') return 'pending';
  if (item.state === 'failed') return 'failed';
  if (wish.version === null) return item.state === 'detached' ? 'done' : 'pending';
  if (item.state !== 'attached') return 'pending';
  // The node put the former version back.
  if (item.report.version !== wish.version) return 'failed';
  return item.report.attachments.every(({ state }) => state === 'attached') ? 'done' : 'pending';
};

export interface Waited {
  items: NodeArtifact[];
  /** By wish, in their order. */
  settled: Settled[];
}

/** Until every wish is settled or `timeoutMs` have passed; then some are still 'pending'. */
export const waitFor = async (
  api: Api,
  wishes: readonly Wish[],
  timeoutMs: number,
  { now, pause }: Pick<Surroundings, 'now' | 'pause'>,
): Promise<Waited> => {
  const until = now() + timeoutMs;
  const name = wishes[0]?.name;
  for (;;) {
    let waited: Waited | null = null;
    try {
      const items = await statusOf(api, { name, node: wishes.length === 1 ? wishes[0]?.node_uid : undefined });
      const settled = wishes.map((wish) =>
        settledOf(
          wish,
          items.find((item) => item.node_uid === wish.node_uid),
        ),
      );
      waited = { items, settled };
    } catch (error) {
      const away = error instanceof AegisError && ['cli.unreachable', 'http.unavailable'].includes(error.code);
      if (!away || now() >= until) throw error;
    }
    if (waited && (now() >= until || !waited.settled.includes('pending'))) return waited;
    const rest = Math.min(LONGEST_MS, EVERY_MS + wishes.length * MORE_FOR_EACH_MS);
    await pause(Math.min(rest, Math.max(1, until - now())));
  }
};
