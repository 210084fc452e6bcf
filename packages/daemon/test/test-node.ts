import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DaemonConfig, loadDaemonConfig } from '../src/config.ts';
import { type DaemonOptions, type RunningDaemon, startDaemon } from '../src/daemon.ts';
import { createLog, type Logger, silentLog } from '../src/platform/log.ts';
import type { ContractServer } from './contract-server.ts';

/** A data directory of its own and a real daemon on it, as often as needed. */
export interface TestNode extends AsyncDisposable {
  dataDir: string;
  config(flags?: Record<string, unknown>): DaemonConfig;
  start(options?: Partial<Omit<DaemonOptions, 'config'>> & { flags?: Record<string, unknown> }): Promise<RunningDaemon>;
}

/** AEGIS_TEST_LOG=1 shows the daemon's log. */
export const testLog = (): Logger =>
  process.env.AEGIS_TEST_LOG
    ? createLog({ level: 'debug', format: 'pretty' }, (line) => process.stderr.write(line))
    : silentLog();

export const testNode = (server: ContractServer): TestNode => {
  const dataDir = mkdtempSync(join(tmpdir(), 'aegis-node-'));
  const running: RunningDaemon[] = [];
  const config = (flags: Record<string, unknown> = {}): DaemonConfig =>
    loadDaemonConfig({
      flags: {
        data_dir: dataDir,
        server: server.url,
        join_token: server.joinToken,
        name: 'web-1',
        poll_wait_sec: 5,
        ...flags,
      },
      env: {},
    }).config;
  return {
    dataDir,
    config,
    start: async ({ flags, ...options } = {}) => {
      const daemon = await startDaemon({ config: config(flags), log: testLog(), ...options });
      running.push(daemon);
      return daemon;
    },
    [Symbol.asyncDispose]: async () => {
      for (const daemon of running) await daemon.close();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
};
