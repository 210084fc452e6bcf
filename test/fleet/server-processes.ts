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

/** Several real server processes on one data directory and one PostgreSQL database, and daemons that each speak to one of them. */
export interface ServerProcesses extends AsyncDisposable {
  readonly folder: string;
  readonly servers: readonly [OneServer, OneServer, ...OneServer[]];
  /** The node speaks to that address. */
  node(name: string, server: string, env?: Readonly<Record<string, string>>): FleetNode;
  /** `aegis server …` on the data directory. */
  offline(...args: string[]): string;
}
export interface OneServer {
  readonly url: string;
  readonly process: ManagedProcess;
  /** As an admin. */
  readonly api: Api;
}

export const startServers = async (options: {
  count: number;
  databaseUrl: string;
  redisUrl?: string;
  serverFlags?: readonly string[];
}): Promise<ServerProcesses> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-servers-'));
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
  const serverOf = async (name: string): Promise<OneServer> => {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const argv = serverArgv(dataDir, port, options.serverFlags);
    return { url, process: managedProcess(name, argv, join(folder, `${name}.log`), env), api: apiOf(url, () => token) };
  };
  const [first, second, ...others] = await Promise.all(
    Array.from({ length: options.count }, (_, nth) => serverOf(`server-${'abcdef'[nth]}`)),
  );
  if (!first || !second) throw new RangeError('at least two');
  const servers: ServerProcesses['servers'] = [first, second, ...others];
  await Promise.all(servers.map(({ process }) => process.start()));
  const nodes: FleetNode[] = [];
  return {
    folder,
    servers,
    offline,
    node: (name, server, more = {}) => {
      const data = join(folder, name);
      mkdirSync(data, { mode: 0o700 });
      const argv = daemonArgv({ dataDir: data, server, name });
      const daemon = managedProcess(name, argv, join(folder, `${name}.log`), {
        ...cleanEnv(folder, more),
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
