import { AegisError, plainExitCodeOf } from '@aegis/protocol/errors';
import { faultPointsFrom } from '@aegis/protocol/fault-points';
import { type Env, type Flags, loadServerConfig } from './config.ts';
import { stderrLog } from './platform/log.ts';
import { type RunningServer, startServer } from './server.ts';

/** The server's process: one line on standard output when it is ready, logs on standard error, signals, the exit code.
 *  The first SIGTERM or SIGINT stops it in order, a second one at once. */
export const runServer = async (options: { flags: Flags; env: Env; json: boolean }): Promise<number> => {
  try {
    const configFile = options.flags.config;
    const { config } = loadServerConfig({
      ...options,
      configFile: typeof configFile === 'string' ? configFile : undefined,
    });
    const log = stderrLog(config.log_level, config.log_format);
    const stop = signalled();
    const server = await startServer({ config, log, faults: faultPointsFrom(options.env) });
    process.stdout.write(
      options.json ? `${JSON.stringify({ ready: true, addresses: server.addresses })}\n` : readyLine(server),
    );
    log.info({ fleet: server.fleet, data_dir: server.dataDir, addresses: server.addresses }, 'the server is ready');
    const signal = await stop;
    log.info({ signal }, 'stopping');
    await server.close();
    return 0;
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
    const { code, message, details } = error;
    process.stderr.write(options.json ? `${JSON.stringify({ error: { code, message, details } })}\n` : `${message}\n`);
    return plainExitCodeOf(code);
  }
};

const readyLine = ({ fleet, addresses }: RunningServer): string => {
  const where = Object.entries(addresses).map(([door, url]) => `${door} ${url}`);
  return `aegis server is ready: fleet ${fleet}, ${where.join(', ')}\n`;
};

const signalled = (): Promise<NodeJS.Signals> =>
  new Promise((resolve) => {
    let stopping = false;
    for (const name of ['SIGTERM', 'SIGINT'] as const)
      process.on(name, () => {
        if (stopping) process.exit(1);
        stopping = true;
        resolve(name);
      });
  });
