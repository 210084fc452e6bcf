import { readFileSync } from 'node:fs';
import { AegisError } from '@aegis/protocol/errors';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { VERSION } from '@aegis/protocol/version';
import type { DaemonConfig } from './config.ts';
import { ensureEnrolled } from './nodes/enrolment.ts';
import { type Identity, type NodeKeys, readIdentity } from './nodes/identity.ts';
import { type Clock, systemClock } from './platform/clock.ts';
import { httpClient, Unreachable } from './platform/http/client.ts';
import { type HttpDoor, nodeHttpDoor, type TlsTrust } from './platform/http/door.ts';
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
      pinnedCertificate: (fingerprint) => fetchPinnedCertificate(new URL(server), fingerprint),
      clock,
      log,
    });
  } finally {
    for (const door of doors) door.close();
  }
};

const openDoor = (config: DaemonConfig, pinned: Identity['tls'], doors: { close(): void }[]): HttpDoor => {
  const door = nodeHttpDoor({ tls: tlsTrust(config, pinned) });
  doors.push(door);
  return door;
};

export const tlsTrust = ({ tls_ca }: DaemonConfig, pinned: Identity['tls']): TlsTrust => {
  if (pinned || tls_ca === undefined) return { pinned };
  try {
    return { ca: readFileSync(tls_ca, 'utf8') };
  } catch (cause) {
    throw new AegisError('config.invalid', `tls_ca = ${JSON.stringify(tls_ca)} cannot be read: name a PEM file.`, {
      cause,
    });
  }
};
