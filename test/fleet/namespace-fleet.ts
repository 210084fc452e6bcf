import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { aegis, cleanEnv, daemonArgv, serverArgv } from './fleet.ts';
import { endExecutionsBelow } from './leftovers.ts';
import { makeNamespaces, type Namespaces, type Outcome } from './namespaces.ts';

/** A server and a daemon as real processes on the node's side of two namespaces, driven by the real CLI there, as an operator
 *  would: programs attach to interfaces that nothing outside the test uses. */
export interface NamespaceFleet extends AsyncDisposable {
  readonly folder: string;
  readonly network: Namespaces;
  readonly server: ManagedProcess;
  readonly daemon: ManagedProcess;
  readonly node: { name: string; uid: string; dataDir: string };
  readonly env: Readonly<Record<string, string>>;
  /** Runs the CLI; fails the test unless it exits with 0. @returns its standard output */
  aegis(...args: readonly string[]): string;
  /** Runs the CLI whatever comes. */
  tryAegis(...args: readonly string[]): Outcome;
  json<T>(...args: readonly string[]): T;
}

const PORT = 8080; // a namespace of its own: no other listens there

export const startNamespaceFleet = async (
  options: { serverFlags?: readonly string[]; daemonFlags?: readonly string[]; startDaemon?: boolean } = {},
): Promise<NamespaceFleet> => {
  const network = makeNamespaces();
  const folder = mkdtempSync(join(tmpdir(), 'aegis-fleet-'));
  const url = `http://127.0.0.1:${PORT}`;
  const base = cleanEnv(folder);
  const serverData = join(folder, 'server');
  const dataDir = join(folder, 'node');
  mkdirSync(dataDir, { mode: 0o700 });
  const server = managedProcess(
    'the server',
    network.node.argv(...serverArgv(serverData, PORT, options.serverFlags)),
    join(folder, 'server.log'),
    base,
  );
  const daemon = managedProcess(
    'the daemon',
    network.node.argv(...daemonArgv({ dataDir, server: url, name: 'web-1' }, options.daemonFlags)),
    join(folder, 'daemon.log'),
    base,
  );
  const dispose = async () => {
    await daemon[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    await endExecutionsBelow(dataDir);
    network[Symbol.dispose]();
    if (!process.env.AEGIS_KEEP) rmSync(folder, { recursive: true, force: true });
  };
  try {
    const offline = (...args: string[]) => {
      const { status, stdout, stderr } = network.node.run([aegis, 'server', ...args, '--data-dir', serverData], {
        env: base,
      });
      if (status !== 0) throw new Error(`aegis server ${args.join(' ')}: ${stderr}`);
      return stdout.trim();
    };
    offline('init');
    const env = { ...base, AEGIS_SERVER: url, AEGIS_TOKEN: offline('token', '--role', 'admin') };
    await server.start();
    const joinToken = offline('join-token', '--ttl', '1h', '--uses', '1');
    const registered = network.node.run(
      [aegis, 'register', '--server', url, '--name', 'web-1', '--data-dir', dataDir, '--json'],
      { env: { ...base, AEGIS_JOIN_TOKEN: joinToken } },
    );
    if (registered.status !== 0) throw new Error(`aegis register: ${registered.stderr}`);
    const { uid } = JSON.parse(registered.stdout) as { uid: string };
    if (options.startDaemon !== false) await daemon.start();
    const tryAegis = (...args: readonly string[]) => network.node.run([aegis, ...args], { env });
    const run = (...args: readonly string[]) => {
      const { status, stdout, stderr } = tryAegis(...args);
      if (status !== 0)
        throw new Error(`aegis ${args.join(' ')}: exit ${status}\n${stdout}${stderr}\n${daemon.log().slice(-3000)}`);
      return stdout;
    };
    return {
      folder,
      network,
      server,
      daemon,
      node: { name: 'web-1', uid, dataDir },
      env,
      aegis: run,
      tryAegis,
      json: <T>(...args: readonly string[]) => JSON.parse(run(...args, '--json')) as T,
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
};
