import { randomUUID } from 'node:crypto';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { fakeKernel } from '../../packages/daemon/test/fake-kernel.ts';
import type { HeldFleet, HeldNode } from '../fleet/in-process.ts';
import { waitFor } from './wait.ts';

/** What a node hears from a server that lies: offers and trust bundles of the test's own making, through the real door and the real daemon. */

const iso = (ms: number): string => new Date(ms).toISOString();

export interface Offer {
  kind?: 'command.run' | 'command.cancel';
  command_id: string;
  attempt?: number;
  directive: Envelope;
  operator_directive?: Envelope;
}

/** The node's next poll is answered with these; resolves when it has acknowledged them all. */
export const offerTo = async (fleet: HeldFleet, node: HeldNode, offers: readonly Offer[]): Promise<void> => {
  const waiting = new Set<string>();
  const commands = offers.map(({ kind = 'command.run', attempt = 1, ...rest }) => {
    const execution_id = randomUUID();
    waiting.add(execution_id);
    return { kind, attempt, execution_id, ...rest };
  });
  let given = false;
  node.intercept = async (asked, send) => {
    const { pathname } = new URL(asked.url);
    if (pathname.endsWith('/v1/commands/poll') && !given) {
      given = true;
      const answer = await send({ ...asked, url: asked.url.replace(/wait=\d+/, 'wait=0') });
      return { ...answer, status: 200, body: Buffer.from(JSON.stringify({ commands, server_time: iso(Date.now()) })) };
    }
    if (pathname.endsWith('/v1/commands/ack')) {
      const { ids } = JSON.parse(String(asked.body)) as { ids: string[] };
      for (const id of ids) waiting.delete(id);
    }
    return await send(asked);
  };
  await fleet.api.submit({ targets: [node.name], payload: { argv: ['true'] }, command_type: 'exec' }); // ends its long poll
  await waitFor(`${node.name} to have acknowledged`, () => given && waiting.size === 0, 20_000);
  node.intercept = null;
};

/** Whoever asks for the trust bundle gets this one, while `work` goes on. */
export const withTrust = async (
  node: HeldNode,
  lie: Envelope,
  asked: () => void,
  work: () => Promise<void>,
): Promise<void> => {
  await node.stop();
  let inner: HeldNode['intercept'] = null;
  const lying: HeldNode['intercept'] = async (request, send) => {
    const { pathname } = new URL(request.url);
    if (pathname.startsWith('/api/v1/trust')) {
      asked();
      const answer = await send(request);
      const truth = JSON.parse(String(answer.body)) as object;
      return { ...answer, body: Buffer.from(JSON.stringify({ ...truth, trust_bundle: lie, trust_bundles: [lie] })) };
    }
    return inner ? await inner(request, send) : await send(request);
  };
  Object.defineProperty(node, 'intercept', {
    configurable: true,
    get: () => lying,
    set: (next: HeldNode['intercept']) => {
      inner = next;
    },
  });
  try {
    await node.start({ kernelEngine: fakeKernel().engine });
    await work();
  } finally {
    Object.defineProperty(node, 'intercept', { configurable: true, writable: true, value: null });
  }
};
