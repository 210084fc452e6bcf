import { readFileSync } from 'node:fs';
import type { ProxySettings } from '@aegis/protocol/channel/proxy';
import type { TlsTrust } from '@aegis/protocol/channel/secure-connect';
import { AegisError } from '@aegis/protocol/errors';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { VERSION } from '@aegis/protocol/version';
import { trustHome } from './access/trust-home.ts';
import type { DaemonConfig } from './config.ts';
import { ensureEnrolled } from './nodes/enrolment.ts';
import { type Identity, type NodeKeys, readIdentity } from './nodes/identity.ts';
import { type Clock, pause, systemClock } from './platform/clock.ts';
import { backoff } from './platform/http/backoff.ts';
import { httpClient, Unreachable } from './platform/http/client.ts';
import { type HttpDoor, nodeHttpDoor } from './platform/http/door.ts';
import { fetchPinnedCertificate } from './platform/http/pinned-certificate.ts';
import { type Logger, silentLog } from './platform/log.ts';

/** Makes a machine a node: `aegis register`, and the daemon's own first start. */

export const USER_AGENT = `Aegis-Agent/${VERSION}`;

export interface EnrolOptions {
  config: DaemonConfig;
  clock?: Clock;
  log?: Logger;
  faults?: FaultPoints;
  /** Instead of node:http(s). */
  request?: HttpDoor;
}

/** Idempotent: an enrolled data directory answers what it has. @throws AegisError; cli.unreachable when the server is not there */
export const enrolNode = async (
  options: EnrolOptions,
): Promise<{ uid: string; name: string; fleet: string; server: string }> => {
  try {
    const { identity } = await enrolOnce(options);
    const { uid, name, fleet, server } = identity;
    return { uid, name, fleet, server };
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    throw new AegisError(
      'cli.unreachable',
      `The server ${options.config.server} does not answer (${error.message}): check the address, and that it runs.`,
      { cause: error },
    );
  }
};

/** @throws Unreachable, AegisError */
export const enrolOnce = async ({
  config,
  clock = systemClock,
  log = silentLog(),
  faults = noFaultPoints,
  request,
}: EnrolOptions): Promise<{ identity: Identity; keys: NodeKeys }> => {
  const server = config.server ?? readIdentity(config.data_dir)?.server;
  if (server === undefined)
    throw new AegisError(
      'nodes.not_enrolled',
      `${config.data_dir} belongs to no fleet yet: give --server and --join-token.`,
    );
  const doors: { close(): void }[] = [];
  try {
    return await ensureEnrolled({
      dataDir: config.data_dir,
      server,
      joinToken: config.join_token,
      name: config.name,
      site: config.site,
      labels: config.labels,
      insecureDev: config.insecure_dev,
      clientFor: (tls) => {
        const door = request ?? openDoor(config, tls, doors);
        return httpClient({ server, door, faults, userAgent: USER_AGENT, compress: false });
      },
      pinnedCertificate: (fingerprint) =>
        fetchPinnedCertificate(new URL(server), fingerprint, { proxy: proxyOf(config), client: clientOf(config) }),
      trust: trustHome(config.data_dir, clock),
      clock,
      log,
    });
  } finally {
    for (const door of doors) door.close();
  }
};

const openDoor = (config: DaemonConfig, pinned: Identity['tls'], doors: { close(): void }[]): HttpDoor => {
  const door = nodeHttpDoor({ tls: tlsTrust(config, pinned), proxy: proxyOf(config) });
  doors.push(door);
  return door;
};

export const proxyOf = ({ https_proxy, no_proxy }: DaemonConfig): ProxySettings => ({
  httpsProxy: https_proxy,
  noProxy: no_proxy,
});

/** Whom this node takes for its server: the one whose certificate it pinned when it joined, and, with an authority of its own, whom that vouches for. */
export const tlsTrust = (config: DaemonConfig, pinned: Identity['tls']): TlsTrust => ({
  pinned,
  client: clientOf(config),
  ...(config.tls_ca === undefined ? {} : { ca: pemOf('tls_ca', config.tls_ca) }),
});

const clientOf = ({ tls_client_cert: cert, tls_client_key: key }: DaemonConfig): TlsTrust['client'] =>
  cert === undefined || key === undefined
    ? undefined
    : { cert: pemOf('tls_client_cert', cert), key: pemOf('tls_client_key', key) };

const pemOf = (key: string, path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new AegisError('config.invalid', `${key} = ${JSON.stringify(path)} cannot be read: name a PEM file.`, {
      cause,
    });
  }
};

/** A server that is not there yet is waited for; one that says no is not. */
export const enrolPatiently = async (
  options: EnrolOptions & { log: Logger; random: () => number; signal?: AbortSignal },
) => {
  const wait = backoff({ random: options.random });
  for (;;) {
    try {
      return await enrolOnce(options);
    } catch (error) {
      if (!(error instanceof Unreachable) || options.signal?.aborted) throw error;
      const retryMs = wait.next(error.retryAfterMs);
      options.log.warn({ err: error, retry_ms: Math.round(retryMs) }, 'cannot enrol yet: the server does not answer');
      await pause(retryMs, options.signal);
    }
  }
};
