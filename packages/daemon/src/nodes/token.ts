import { createHash, randomBytes, sign } from 'node:crypto';
import { join } from 'node:path';
import type { KeyPair } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import { renewToken } from '@aegis/protocol/nodes/endpoints';
import { type RegisterInit, tokenRequestTranscript } from '@aegis/protocol/nodes/enrolment';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import { isoTime } from '../platform/clock.ts';
import { type HttpClient, Unreachable } from '../platform/http/client.ts';
import { removePrivateFile, writePrivateFile } from '../platform/private-files.ts';
import type { NodeFacts } from './facts.ts';
import { readRecord } from './identity.ts';

/** The node's bearer token: kept in a 0600 file, renewed against a signature of the node key. */

const StoredToken = z.object({
  token: z.string(),
  expires_at: z.string(),
  /** Hash of the facts that the server was told with it. */
  told: z.optional(z.string()),
});
type StoredToken = z.infer<typeof StoredToken>;
const tokenFile = (dataDir: string): string => join(dataDir, 'token.json');

/** A hash by which to see that what the server was told is no longer so. */
export const toldOf = ({ attrs, capabilities }: Pick<RegisterInit, 'attrs' | 'capabilities'>): string =>
  createHash('sha256')
    .update(JSON.stringify([attrs, capabilities]))
    .digest('hex');

export const writeToken = (dataDir: string, { token, expires_at, told }: StoredToken): void => {
  writePrivateFile(tokenFile(dataDir), `${JSON.stringify({ token, expires_at, told })}\n`);
};

export interface NodeToken {
  current(): string | null;
  /** A fresh one; calls at the same time share one request. */
  renew(): Promise<void>;
  /** Renews when less than a fifth of the life that this process has seen of it is left. Never throws. */
  renewWhenDue(): Promise<void>;
}

export const nodeToken = ({
  dataDir,
  identity,
  key,
  facts,
  client,
  clock,
}: {
  dataDir: string;
  identity: { uid: string; fleet: string };
  key: KeyPair;
  /** Told with each renewal. */
  facts: Pick<NodeFacts, 'attrs' | 'capabilities'>;
  /** Without a token of its own. */
  client: HttpClient;
  clock: Clock;
}): NodeToken => {
  let stored = readStored(dataDir);
  // By the monotonic clock, so that a jump of the wall clock neither renews in a loop nor lets the token lapse.
  let dueAt = 0;
  const schedule = (token: StoredToken): void => {
    const leftMs = Date.parse(token.expires_at) - clock.now();
    dueAt = clock.monotonic() + Math.min(Math.max(leftMs * 0.8, 60_000), 24 * 3_600_000);
  };
  if (stored) {
    schedule(stored);
    // A new release or kernel: renewed at the first contact, so that the server sees it now and not in a day.
    if (stored.told !== toldOf(facts)) dueAt = clock.monotonic();
  }

  const request = async (nowMs: number) => {
    const asked = { agent_uid: identity.uid, timestamp: isoTime(nowMs), nonce: randomBytes(32).toString('base64') };
    const signature = sign(null, tokenRequestTranscript(identity.fleet, asked), key.privateKey).toString('base64');
    return client.call(renewToken, {
      body: { ...asked, signature, attrs: facts.attrs, capabilities: facts.capabilities },
      authorised: false,
    });
  };
  const fetchToken = async (): Promise<void> => {
    let answer: StoredToken;
    try {
      answer = await request(clock.now());
    } catch (error) {
      // The clocks differ: the time only shows the server that the signature is fresh, so its own clock will do.
      const serverMs =
        error instanceof AegisError && error.code === 'nodes.clock_skew'
          ? Date.parse(String(error.details.date))
          : Number.NaN;
      if (Number.isNaN(serverMs)) throw error;
      answer = await request(serverMs);
    }
    stored = { token: answer.token, expires_at: answer.expires_at, told: toldOf(facts) };
    schedule(stored);
    writeToken(dataDir, stored);
  };
  let renewing: Promise<void> | null = null;
  const renew = (): Promise<void> => {
    renewing ??= fetchToken().finally(() => {
      renewing = null;
    });
    return renewing;
  };

  return {
    current: () => stored?.token ?? null,
    renew,
    renewWhenDue: async () => {
      if (stored && clock.monotonic() < dueAt) return;
      try {
        await renew();
      } catch (error) {
        dueAt = clock.monotonic() + 60_000; // a token that lapsed meanwhile is renewed by the 401 that it gets
        if (!(error instanceof Unreachable) && !(error instanceof AegisError)) throw error;
      }
    },
  };
};

const readStored = (dataDir: string): StoredToken | null => {
  try {
    return readRecord(tokenFile(dataDir), StoredToken, 'it is fetched anew');
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
    removePrivateFile(tokenFile(dataDir)); // worth nothing: the key gets another
    return null;
  }
};
