import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type BadNetwork, startBadNetwork } from '../faults/bad-network.ts';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { type Api, apiOf } from './api.ts';
import { freePort } from './free-port.ts';
import { endExecutionsBelow } from './leftovers.ts';

/** A fleet of real processes (one server, its daemons, a bad network between them) in temporary folders on loopback. */
export interface Fleet extends AsyncDisposable {
  readonly folder: string;
  readonly url: string;
  readonly server: ManagedProcess;
  readonly nodes: readonly FleetNode[];
  readonly network: BadNetwork;
  readonly api: Api;
  /** An admin token of this server. */
  readonly token: string;
}

export interface FleetNode {
  readonly name: string;
  readonly dataDir: string;
  readonly daemon: ManagedProcess;
}

export interface FleetOptions {
  nodes?: number;
  databaseUrl?: string;
  seed?: number;
  serverFlags?: readonly string[];
  daemonFlags?: readonly string[];
  /** Where a node's data lies, e.g. on a small file system. */
  dataDirOf?: (name: string) => string;
  env?: Readonly<Record<string, string>>;
  /** Leave the daemons for the test to start. */
  startDaemons?: boolean;
  /** Daemons talk to the server itself, without the bad network between them: for measurements. */
  direct?: boolean;
}

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
export const aegis = join(root, 'bin', 'aegis');

export const serverArgv = (dataDir: string, port: number, flags: readonly string[] = []): string[] => [
  ...[aegis, 'server', 'start', '--data-dir', dataDir, '--listen', `127.0.0.1:${port}=all`, '--json'],
  ...flags,
];

export const daemonArgv = (
  { dataDir, server, name }: { dataDir: string; server: string; name: string },
  flags: readonly string[] = [],
): string[] => [
  ...[aegis, 'daemon', 'start', '--data-dir', dataDir, '--server', server, '--name', name, '--json'],
  ...flags,
];

/** Only what a program needs: nothing that a person has set may reach it. */
export const cleanEnv = (home: string, more: Readonly<Record<string, string>> = {}): Record<string, string> => ({
  PATH: process.env.PATH ?? '/usr/bin:/bin',
  HOME: home,
  LANG: 'C.UTF-8',
  ...more,
});

export const startFleet = async (options: FleetOptions = {}): Promise<Fleet> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-fleet-'));
  const env = cleanEnv(folder, options.env);
  const serverData = join(folder, 'server');
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const database = options.databaseUrl ? { DATABASE_URL: options.databaseUrl } : {};
  const offline = async (...args: string[]): Promise<string> => {
    const argv = ['server', ...args, '--data-dir', serverData];
    return (await promisify(execFile)(aegis, argv, { env: { ...env, ...database } })).stdout.trim();
  };
  await offline('init');
  const token = await offline('token', '--role', 'admin');
  const server = managedProcess(
    'the server',
    serverArgv(serverData, port, options.serverFlags),
    join(folder, 'server.log'),
    { ...env, ...database },
  );
  await server.start();
  const network = await startBadNetwork(url, options.seed ?? 1);
  const joinToken = await offline('join-token', '--ttl', '1h', '--uses', String(options.nodes ?? 1));

  const nodes = Array.from({ length: options.nodes ?? 1 }, (_, index): FleetNode => {
    const name = `web-${index + 1}`;
    const dataDir = options.dataDirOf?.(name) ?? join(folder, name);
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    const daemon = managedProcess(
      name,
      daemonArgv({ dataDir, server: options.direct ? url : network.url, name }, options.daemonFlags),
      join(folder, `${name}.log`),
      { ...env, AEGIS_JOIN_TOKEN: joinToken },
    );
    return { name, dataDir, daemon };
  });
  if (options.startDaemons !== false) await Promise.all(nodes.map(({ daemon }) => daemon.start()));

  const api = apiOf(url, () => token);
  if (options.startDaemons !== false)
    await waitFor('every node to be online', async () => {
      const { body } = await api.call('GET', '/api/v1/agents?limit=1000');
      return (
        (body as { agents: { status: string }[] }).agents.filter((node) => node.status === 'online').length ===
        nodes.length
      );
    });

  return {
    folder,
    url,
    server,
    nodes,
    network,
    api,
    token,
    [Symbol.asyncDispose]: async () => {
      await Promise.all(nodes.map(({ daemon }) => daemon[Symbol.asyncDispose]()));
      await network[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await Promise.all(nodes.map(({ dataDir }) => endExecutionsBelow(dataDir)));
      if (!process.env.AEGIS_KEEP) rmSync(folder, { recursive: true, force: true });
    },
  };
};
