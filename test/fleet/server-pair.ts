import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { type Api, apiOf } from './api.ts';
import { aegis, cleanEnv, daemonArgv, type FleetNode, serverArgv } from './fleet.ts';
import { freePort } from './free-port.ts';
import { endExecutionsBelow } from './leftovers.ts';

/** Two real server processes on one data directory and one PostgreSQL database, and daemons that poll at either. */
export interface ServerPair extends AsyncDisposable {
  readonly folder: string;
  readonly servers: readonly [PairServer, PairServer];
  /** The node polls at the server of that index. */
  node(name: string, at: 0 | 1): FleetNode;
  /** `aegis server …` on the data directory. */
  offline(...args: string[]): string;
}
export interface PairServer {
  readonly url: string;
  readonly process: ManagedProcess;
  /** As an admin. */
  readonly api: Api;
}

export const startServerPair = async (options: {
  databaseUrl: string;
  redisUrl?: string;
  serverFlags?: readonly string[];
}): Promise<ServerPair> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-pair-'));
  const env = cleanEnv(folder, {
    DATABASE_URL: options.databaseUrl,
    ...(options.redisUrl === undefined ? {} : { REDIS_URL: options.redisUrl }),
  });
  const dataDir = join(folder, 'server');
  const offline = (...args: string[]) =>
    execFileSync(aegis, ['server', ...args, '--data-dir', dataDir], { encoding: 'utf8', env }).trim();
  offline('init');
  const token = offline('token', '--role', 'admin');
  const joinToken = offline('join-token', '--ttl', '1h', '--uses', '100');
  const serverOf = async (name: string): Promise<PairServer> => {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const argv = serverArgv(dataDir, port, options.serverFlags);
    return { url, process: managedProcess(name, argv, join(folder, `${name}.log`), env), api: apiOf(url, () => token) };
  };
  const servers = [await serverOf('server-a'), await serverOf('server-b')] as const;
  await Promise.all(servers.map(({ process }) => process.start()));
  const nodes: FleetNode[] = [];
  return {
    folder,
    servers,
    offline,
    node: (name, at) => {
      const data = join(folder, name);
      mkdirSync(data, { mode: 0o700 });
      const argv = daemonArgv({ dataDir: data, server: servers[at].url, name });
      const daemon = managedProcess(name, argv, join(folder, `${name}.log`), {
        ...cleanEnv(folder),
        AEGIS_JOIN_TOKEN: joinToken,
      });
      const node = { name, dataDir: data, daemon };
      nodes.push(node);
      return node;
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(nodes.map(({ daemon }) => daemon[Symbol.asyncDispose]()));
      await Promise.all(servers.map(({ process }) => process[Symbol.asyncDispose]()));
      await Promise.all(nodes.map(({ dataDir: data }) => endExecutionsBelow(data)));
      if (!process.env.AEGIS_KEEP) rmSync(folder, { recursive: true, force: true });
    },
  };
};

/** Until the server counts so many nodes as online. */
export const waitOnline = (api: Api, count: number): Promise<void> =>
  waitFor('every node to be online', async () => {
    const { body } = await api.call('GET', '/api/v1/agents?limit=1000');
    return (body as { agents: { status: string }[] }).agents.filter((one) => one.status === 'online').length === count;
  });
