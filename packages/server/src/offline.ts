import { join } from 'node:path';
import type { JoinTokenInfo, OperatorToken } from '@aegis/protocol/access/endpoints';
import type { Role } from '@aegis/protocol/access/roles';
import { AegisError } from '@aegis/protocol/errors';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import type { Labels } from '@aegis/protocol/nodes/node';
import { type LocalUser, localUser, recordedOffline } from './access/audit/offline.ts';
import { claimStorage } from './access/claimed-storage.ts';
import { createFleetKeys, type FleetKeys, loadFleetKeys } from './access/fleet-keys.ts';
import { pinnedCertificate } from './access/own-certificate.ts';
import { accessRepository } from './access/repository.ts';
import { operatorJwts, type TokenKeyFiles, tokenKeyPair } from './access/tokens-jwt.ts';
import { type TokensService, tokensService } from './access/tokens-service.ts';
import { MIGRATIONS } from './migrations.ts';
import { type Clock, systemClock } from './platform/clock.ts';
import { appliedMigrations } from './platform/storage/migrate.ts';
import { openStorage } from './platform/storage/open.ts';
import type { Storage } from './tables.ts';

export { type LocalUser, localUser, type TokenKeyFiles };

/** What works on the data directory by itself, whether or not a server runs on it. */

export interface OnData {
  dataDir: string;
  /** Where the tables are in PostgreSQL. */
  databaseUrl?: string | undefined;
  /** `jwt_signing_secret`: signs operators' tokens, where it is set. */
  jwtSecret?: string | null | undefined;
  /** The key that signs them otherwise, where it is not in the data directory. */
  tokenKey?: TokenKeyFiles | undefined;
  /** For the audit; absent: this process's user. */
  by?: LocalUser | undefined;
  clock?: Clock | undefined;
}

/** @throws AegisError config.invalid */
export const initialiseServer = async (
  options: OnData & {
    fleet?: string | undefined;
    /** Takes the root's private key (PEM) to where it shall be; without it, it stays in the data directory. */
    keepRoot?: ((pem: string) => void) | undefined;
  },
): Promise<{ fleet: string; rootFingerprint: string; created: boolean }> => {
  const now = (options.clock ?? systemClock).now();
  const known = loadFleetKeys(options.dataDir, now);
  const keys = known ?? createFleetKeys(options.dataDir, options.fleet, now, options.keepRoot);
  if (known && options.fleet !== undefined && options.fleet !== known.fleet)
    throw new AegisError(
      'config.invalid',
      `${options.dataDir} holds the fleet '${known.fleet}' already. Give '${options.fleet}' another data directory.`,
    );
  const storage = await openServerStorage({ ...options, keys });
  await storage.close();
  return { fleet: keys.fleet, rootFingerprint: keys.rootFingerprint, created: known === null };
};

/** Brings the database to this release's tables, as a start would. Another process may do the same at once.
 *  @throws AegisError config.invalid */
export const migrateServer = async (
  options: OnData,
): Promise<{ migrations: { number: number; name: string; appliedAt: number; now: boolean }[] }> => {
  const clock = options.clock ?? systemClock;
  const began = clock.now();
  const keys = requireFleetKeys(options.dataDir, began);
  const storage = await openServerStorage({ ...options, keys });
  try {
    const applied = await appliedMigrations(storage.read);
    return {
      migrations: applied.map(({ number, name, applied_at }) => ({
        number,
        name,
        appliedAt: applied_at,
        now: applied_at >= began,
      })),
    };
  } finally {
    await storage.close();
  }
};

/** The token's text: this is the one time that it can be seen. */
export const issueToken = (
  options: OnData & { role: Role; name: string; ttlSec?: number | undefined; scope?: string | undefined },
): Promise<string> => {
  const { name, role, scope = null, ttlSec: ttl_sec } = options;
  const call = { action: 'createToken', body: { name, role, scope, ttl_sec } };
  return withTokens(options, async (tokens, record) => (await record(call, () => tokens.createToken(options))).token);
};

export const issueJoinToken = (
  options: OnData & {
    ttlSec: number;
    uses: number;
    site?: string | undefined;
    labels?: Labels | undefined;
    tlsFingerprint?: string | undefined;
  },
): Promise<string> => {
  const { uses, site, ttlSec: ttl_sec } = options;
  const call = { action: 'createJoinToken', body: { ttl_sec, uses, site } };
  return withTokens(
    options,
    async (tokens, record) => (await record(call, () => tokens.createJoinToken(options))).join_token,
  );
};

export const listTokens = (options: OnData): Promise<OperatorToken[]> =>
  withTokens(options, (tokens) => everyPage((paging) => tokens.listTokens(paging)));
export const revokeToken = (options: OnData & { id: string }): Promise<OperatorToken> =>
  withTokens(options, (tokens, record) =>
    record({ action: 'revokeToken', params: { id: options.id } }, () => tokens.revokeToken(options.id)),
  );
export const listJoinTokens = (options: OnData): Promise<JoinTokenInfo[]> =>
  withTokens(options, (tokens) => everyPage((paging) => tokens.listJoinTokens(paging)));
export const revokeJoinToken = (options: OnData & { id: string }): Promise<JoinTokenInfo> =>
  withTokens(options, (tokens, record) =>
    record({ action: 'revokeJoinToken', params: { id: options.id } }, () => tokens.revokeJoinToken(options.id)),
  );

/** @throws AegisError config.invalid when nobody has initialised it */
export const requireFleetKeys = (dataDir: string, now: number): FleetKeys => {
  const keys = loadFleetKeys(dataDir, now);
  if (!keys)
    throw new AegisError(
      'config.invalid',
      `${dataDir} holds no fleet yet. Run 'aegis server init --data-dir ${dataDir}' first, or try 'aegis server start --dev'.`,
    );
  return keys;
};

/** The fleet's database, migrated. @throws AegisError config.invalid, http.unavailable */
export const openServerStorage = async (
  options: OnData & {
    keys: FleetKeys;
    faults?: FaultPoints;
    maxWaiting?: number;
    onConnectionError?: (error: Error) => void;
  },
): Promise<Storage> => {
  const { now } = options.clock ?? systemClock;
  const storage: Storage = await openStorage({
    databaseUrl: options.databaseUrl,
    file: join(options.dataDir, 'aegis.db'),
    migrations: MIGRATIONS,
    faults: options.faults ?? noFaultPoints,
    now,
    ...(options.maxWaiting ? { maxWaiting: options.maxWaiting } : {}),
    ...(options.onConnectionError ? { onConnectionError: options.onConnectionError } : {}),
  });
  try {
    await claimStorage(storage, options.keys);
  } catch (error) {
    await storage.close();
    throw error;
  }
  return storage;
};

/** Leaves an entry in the audit. */
type Recorded = <T>(call: { action: string; params?: unknown; body?: unknown }, work: () => Promise<T>) => Promise<T>;

/** What `work` does not record is not: for reading, and for tests that count entries. */
export const withTokens = async <T>(
  options: OnData,
  work: (tokens: TokensService, record: Recorded) => Promise<T>,
): Promise<T> => {
  const clock = options.clock ?? systemClock;
  const keys = requireFleetKeys(options.dataDir, clock.now());
  const storage = await openServerStorage({ ...options, keys });
  try {
    return await work(
      tokensService({
        repository: accessRepository(storage),
        jwts: operatorJwts({
          fleet: keys.fleet,
          pair: tokenKeyPair(options.dataDir, options.tokenKey),
          secret: options.jwtSecret ?? null,
          now: clock.now,
        }),
        clock,
        rootFingerprint: keys.rootFingerprint,
        joinMaster: keys.secrets.join_master,
        tlsFingerprint: () => pinnedCertificate(options.dataDir),
      }),
      (call, does) => recordedOffline({ storage, clock, by: options.by ?? localUser({}) }, call, does),
    );
  } finally {
    await storage.close();
  }
};

const PAGE = 1000;
const everyPage = async <T>(
  list: (paging: { limit: number; cursor?: string | undefined }) => Promise<{ items: T[]; next_cursor: string | null }>,
): Promise<T[]> => {
  const all: T[] = [];
  let cursor: string | undefined;
  do {
    const page = await list({ limit: PAGE, cursor });
    all.push(...page.items);
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
  return all;
};
