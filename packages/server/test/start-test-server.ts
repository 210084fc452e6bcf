import { randomBytes, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import type { Role } from '@aegis/protocol/access/roles';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { registerComplete, registerInit, registerKeyless } from '@aegis/protocol/nodes/endpoints';
import { enrolmentTranscript, joinTokenMac, RegisterInit } from '@aegis/protocol/nodes/enrolment';
import * as z from 'zod/mini';
import { type Flags, loadServerConfig } from '../src/config.ts';
import { initialiseServer, withTokens } from '../src/offline.ts';
import type { Clock } from '../src/platform/clock.ts';
import type { Log } from '../src/platform/log.ts';
import { type RunningServer, startServer } from '../src/server.ts';
import { freshDatabase } from './shared-postgres.ts';
import { type TestClient, testClient } from './test-client.ts';

/** A real server on port 0 in a temporary folder, for tests: `await using server = await startTestServer()`. */

export interface TestServerOptions {
  storage?: 'sqlite' | 'postgres';
  /** An existing PostgreSQL database instead of a fresh one. */
  databaseUrl?: string;
  clock?: Clock;
  /** Configuration by key, e.g. `{ 'commands.redeliver_after_ms': 100, dev: true }`. */
  config?: Flags;
  faults?: FaultPoints;
  log?: Log;
  /** Kept at the end when given: for a second server on the same data. */
  dataDir?: string;
}

export interface EnrolledNode extends TestClient {
  uid: string;
  name: string;
  keys: KeyPair;
  token: string;
}

export interface TestServer extends AsyncDisposable {
  url: string;
  running: RunningServer;
  dataDir: string;
  databaseUrl: string | undefined;
  /** A client with a token of that role (made at its first call), or without any credential. */
  as(who: Role | 'anyone'): TestClient;
  withToken(bearer: string): TestClient;
  joinToken(wanted?: {
    uses?: number;
    ttlSec?: number;
    site?: string;
    labels?: Record<string, string>;
  }): Promise<string>;
  /** A node with a key, through real enrolment. */
  enrol(name: string, more?: Partial<RegisterInit> & { keys?: KeyPair }): Promise<EnrolledNode>;
  /** A keyless poller of seed 002. */
  keyless(name: string): Promise<TestClient & { token: string }>;
  /** Stops it and starts it again on the same data; clients go on working. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

export const startTestServer = async (options: TestServerOptions = {}): Promise<TestServer> => {
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'aegis-server-test-'));
  const databaseUrl = options.databaseUrl ?? (options.storage === 'postgres' ? await freshDatabase() : undefined);
  const onData = { dataDir, databaseUrl, clock: options.clock };
  await initialiseServer(onData);
  const { config } = loadServerConfig({
    flags: {
      data_dir: dataDir,
      database_url: databaseUrl,
      listen: ['127.0.0.1:0=all'],
      rate_limits_enrolment_burst: 1_000_000,
      rate_limits_enrolment_pending: 10_000,
      rate_limits_failed_auth_burst: 1_000_000,
      rate_limits_agent_burst: 1_000_000,
      rate_limits_address_burst: 1_000_000,
      rate_limits_token_burst: 1_000_000,
      ...options.config,
    },
    env: {},
  });
  const start = () =>
    startServer({
      config,
      faults: options.faults ?? noFaultPoints,
      ...(options.clock ? { clock: options.clock } : {}),
      ...(options.log ? { log: options.log } : {}),
    });
  let running = await start();
  const urlOf = () => Object.values(running.addresses)[0] ?? '';
  const issued = new Map<Role, Promise<string>>();
  const tokenOf = (role: Role): Promise<string> => {
    const made = () => withTokens(onData, async (on) => (await on.createToken({ role, name: `test-${role}` })).token);
    const known = issued.get(role) ?? made();
    issued.set(role, known);
    return known;
  };
  const joinToken: TestServer['joinToken'] = (wanted = {}) =>
    withTokens(onData, async (on) => (await on.createJoinToken({ ttlSec: 3600, uses: 1, ...wanted })).join_token);
  const client = (bearer: () => Promise<string | undefined>) => testClient(urlOf, bearer);
  const withToken = (bearer: string) => client(async () => bearer);
  const anyone = client(async () => undefined);
  const close = async () => {
    try {
      await running.close();
    } finally {
      if (options.dataDir === undefined) rmSync(dataDir, { recursive: true, force: true });
    }
  };
  return {
    get url() {
      return urlOf();
    },
    get running() {
      return running;
    },
    dataDir,
    databaseUrl,
    as: (who) => (who === 'anyone' ? anyone : client(() => tokenOf(who))),
    withToken,
    joinToken,
    enrol: async (name, { keys = generateKeyPair(), ...more } = {}) => {
      const token = parseJoinToken(await joinToken());
      const answer = await enrolThrough(
        anyone,
        { ...more, host_id: name, token_id: token.id },
        keys,
        token.secret,
        running,
      );
      return { ...withToken(answer.token), uid: answer.agent_uid, name, keys, token: answer.token };
    },
    keyless: async (name) => {
      const { token } = await withToken(await joinToken()).call(registerKeyless, { body: { node_id: name } });
      return { ...withToken(token), token };
    },
    restart: async () => {
      await running.close();
      running = await start();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
};

/** Both calls of an enrolment as an honest node makes them. */
export const enrolThrough = async (
  client: TestClient,
  facts: Omit<RegisterInit, 'public_key'>,
  keys: KeyPair,
  tokenSecret: string | undefined,
  { fleet, rootFingerprint }: Pick<RunningServer, 'fleet' | 'rootFingerprint'>,
) => {
  const init = z.parse(RegisterInit, { ...facts, public_key: keys.publicRaw.toString('base64') });
  const answer = await client.call(registerInit, { body: init });
  const transcript = enrolmentTranscript('node', {
    fleet,
    rootFingerprint,
    serverKey: Buffer.from(answer.server_key, 'base64'),
    challenge: Buffer.from(answer.challenge, 'base64'),
    registrationId: answer.registration_id,
    init,
  });
  return client.call(registerComplete, {
    body: {
      registration_id: answer.registration_id,
      signature: sign(null, transcript, keys.privateKey).toString('base64'),
      ...(tokenSecret === undefined ? {} : { token_mac: joinTokenMac(tokenSecret, transcript).toString('base64') }),
    },
  });
};

/** A clock that stands still until it is told to move. */
export interface HandClock extends Clock {
  advance(ms: number): void;
}
export const handClock = (start = Date.now()): HandClock => {
  let now = start;
  return {
    now: () => now,
    advance: (ms) => {
      now += ms;
    },
  };
};

export const nonce = (): string => randomBytes(32).toString('base64');
