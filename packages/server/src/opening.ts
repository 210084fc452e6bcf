import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { createFleetKeys, type FleetKeys, loadFleetKeys } from './access/fleet-keys.ts';
import { fingerprintOf, ownCertificate, pinCertificate } from './access/own-certificate.ts';
import { isGuessable, type ServerConfig } from './config.ts';
import { parseListen } from './listen-address.ts';
import { openServerStorage, requireFleetKeys } from './offline.ts';
import { type Bus, processBus } from './platform/bus.ts';
import { redisLink } from './platform/bus-redis.ts';
import { sharedBus } from './platform/bus-shared.ts';
import type { Clock } from './platform/clock.ts';
import { type Tls, tlsFromFiles } from './platform/http/tls.ts';
import type { Log } from './platform/log.ts';
import { lockDataDir } from './platform/storage/data-dir-lock.ts';
import { postgresLink } from './platform/storage/postgres-listen.ts';
import type { Storage } from './tables.ts';

/** What a starting server opens before its domains, by its configuration: the data directory, the bus, the certificate. */

/** Server processes on one PostgreSQL database wake each other; SQLite has one process. */
export const openBus = async (
  config: ServerConfig,
  keys: FleetKeys,
  log: Log,
  undo: AsyncDisposableStack,
): Promise<Bus> => {
  const { database_url, redis_url } = config;
  if (database_url === null) {
    if (redis_url !== null) log.warn('redis_url is of no use without database_url: there is one server process');
    return processBus();
  }
  const openLink =
    redis_url === null
      ? postgresLink(database_url)
      : redisLink(redis_url, `aegis:${keys.firstRootFingerprint.slice(0, 32)}`); // several fleets may use one Redis; the root may change under one process
  const bus = undo.use(sharedBus({ openLink, random: Math.random, log }));
  await bus.ready;
  return bus;
};

/** The data directory's lock and keys. Only --dev makes what is not there, and a directory of its own where none is given. */
export const openDataDir = (
  config: ServerConfig,
  clock: Clock,
  log: Log,
  undo: AsyncDisposableStack,
): { dataDir: string; keys: FleetKeys } => {
  const isShared = config.database_url !== null;
  if (!config.dev) {
    if (config.data_dir === null)
      throw new AegisError('config.invalid', 'data_dir is not set. Give --data-dir, or --dev for a temporary one.');
    const keys = requireFleetKeys(config.data_dir, clock.now());
    undo.use(lockDataDir(config.data_dir, isShared));
    return { dataDir: config.data_dir, keys };
  }
  const dataDir = config.data_dir ?? mkdtempSync(join(tmpdir(), 'aegis-dev-'));
  if (config.data_dir === null) undo.defer(() => rmSync(dataDir, { recursive: true, force: true }));
  const keys = loadFleetKeys(dataDir, clock.now()) ?? createFleetKeys(dataDir, undefined, clock.now());
  undo.use(lockDataDir(dataDir, isShared));
  log.warn('--dev: whoever can reach a loopback port of this machine is admin, without any credential');
  log.warn(
    { data_dir: dataDir },
    config.data_dir === null ? '--dev: the data is temporary and removed at the end' : '--dev: the data stays',
  );
  if (config.jwt_signing_secret !== null && isGuessable(config.jwt_signing_secret))
    log.warn('--dev: jwt_signing_secret is shorter than 32 bytes; without --dev it is refused');
  return { dataDir, keys };
};

/** SQLite in the data directory, or PostgreSQL. @throws AegisError config.invalid, http.unavailable */
export const openDatabase = async (
  config: ServerConfig,
  on: { dataDir: string; keys: FleetKeys; clock: Clock; faults: FaultPoints },
  log: Log,
  undo: AsyncDisposableStack,
): Promise<Storage> => {
  const storage = await openServerStorage({
    ...on,
    databaseUrl: config.database_url ?? undefined,
    maxWaiting: config.max_waiting_writes,
    onConnectionError: (err) => log.warn({ err }, 'a database connection broke while idle'),
  });
  undo.defer(() => storage.close());
  return storage;
};

/** Of an address that others reach without TLS, which was asked for. */
export const warnOfPlainText = (config: ServerConfig, listen: string, log: Log): void =>
  log.warn(
    { listen },
    config.behind_proxy.length > 0
      ? 'listening beyond this machine without TLS: nobody but the proxy may reach this address'
      : 'listening beyond this machine without TLS (insecure_listen): tokens and output are readable on the way',
  );

/** The certificate that is served, and its SHA-256 for join tokens where nobody but they can vouch for it. */
export const openTls = (config: ServerConfig, dataDir: string, { now }: Clock, log: Log): Tls | undefined => {
  const { tls_cert: cert, tls_key: key, tls_client_ca: clientCa } = config;
  if (!config.tls_self_signed) {
    pinCertificate(dataDir, null);
    return cert === null || key === null ? undefined : tlsFromFiles({ cert, key, clientCa }, now, log);
  }
  const own = ownCertificate({ dataDir, hosts: config.listen.map((text) => parseListen(text).host), now });
  own.renewWhenDue();
  const tls = tlsFromFiles({ ...own.files, clientCa }, now, log);
  const announce = (): void => {
    const fingerprint = fingerprintOf(tls.current().cert);
    pinCertificate(dataDir, fingerprint);
    log.info(
      { tls_fingerprint: fingerprint },
      'serving a self-signed certificate; join tokens made from now on name it',
    );
  };
  announce();
  tls.follow(announce);
  return {
    ...tls,
    check: async () => {
      own.renewWhenDue();
      await tls.check();
    },
  };
};
