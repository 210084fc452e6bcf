import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { startTcpRelay, type TcpRelay } from '../faults/tcp-relay.ts';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, daemonArgv, type Fleet, startFleet } from './fleet.ts';
import { endExecutionsBelow } from './leftovers.ts';
import { startJob } from './workload.ts';

/** A server, and nodes that each have a way of their own to it: one fleet, as many faults at a time as there are nodes. */
export interface RelayedFleet extends AsyncDisposable {
  readonly fleet: Fleet;
  node(name: string, options?: NodeOptions): Promise<RelayedNode>;
}
export interface NodeOptions {
  carrier?: 'auto' | 'ws' | 'poll';
  /** Another way than the relay, and how its programs run there. */
  way?: { url: string; argv(...argv: readonly string[]): string[] };
}
export interface RelayedNode {
  readonly name: string;
  readonly relay: TcpRelay;
  readonly daemon: ManagedProcess;
  /** What its calls go over now. */
  carrier(): Promise<string>;
  /** Until its channel is up. */
  up(): Promise<void>;
  /** Runs commands, one of each kind at a time. @returns what is not exact about them */
  jobs(...kinds: string[]): Promise<string[]>;
}

const DEADLINE_MS = 300_000;

export const startRelayedFleet = async (env: Readonly<Record<string, string>> = {}): Promise<RelayedFleet> => {
  const fleet = await startFleet({ startDaemons: false, env });
  const answer = await fleet.api.call('POST', '/api/v1/join-tokens', { uses: 100 });
  const { join_token: joinToken } = answer.body as { join_token: string };
  const undo = new AsyncDisposableStack();
  undo.use(fleet);
  return {
    fleet,
    node: async (name, { carrier = 'auto', way } = {}) => {
      const relay = undo.use(await startTcpRelay(fleet.url));
      const dataDir = join(fleet.folder, `data-${name}`);
      const logFile = join(fleet.folder, `${name}.log`);
      mkdirSync(dataDir, { mode: 0o700 });
      undo.defer(() => endExecutionsBelow(dataDir));
      const argv = daemonArgv({ dataDir, server: way?.url ?? relay.url, name });
      const base = cleanEnv(fleet.folder, { ...env, AEGIS_CARRIER: carrier });
      const daemon = undo.use(
        managedProcess(name, way ? way.argv(...argv) : argv, logFile, { ...base, AEGIS_JOIN_TOKEN: joinToken }),
      );
      await daemon.start();
      const carrierNow = async (): Promise<string> => {
        const asked = ['daemon', 'status', '--json', '--data-dir', dataDir];
        const { stdout } = await promisify(execFile)(aegis, asked, { env: base });
        return (JSON.parse(stdout) as { carrier: string }).carrier;
      };
      return {
        name,
        relay,
        daemon,
        carrier: carrierNow,
        up: () =>
          waitFor(
            `the channel of ${name} to be up`,
            async () => (way !== undefined || relay.channels() > 0) && (await carrierNow()) === 'ws',
            60_000,
            () => readFileSync(logFile, 'utf8').slice(-3000),
          ),
        jobs: async (...kinds) => {
          const started = await Promise.all(kinds.map((kind) => startJob(fleet, name, kind)));
          return (await Promise.all(started.map((job) => job.fault(DEADLINE_MS)))).filter((fault) => fault !== null);
        },
      };
    },
    [Symbol.asyncDispose]: () => undo.disposeAsync(),
  };
};
