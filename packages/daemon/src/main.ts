import { writeSync } from 'node:fs';
import { sdNotify, watchdogIntervalMs } from '@aegis/native/sd-notify';
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { AegisError, plainExitCodeOf } from '@aegis/protocol/errors';
import { faultPointsFrom } from '@aegis/protocol/fault-points';
import { type ConfigSources, loadDaemonConfig } from './config.ts';
import { type RunningDaemon, startDaemon } from './daemon.ts';
import { createLog, type Logger } from './platform/log.ts';

/** The process: configuration, signals, readiness and watchdog, exit code. */

export interface RunOptions extends Omit<ConfigSources, 'env'> {
  env: NodeJS.ProcessEnv;
  /** The ready line and a fatal error as JSON. */
  json: boolean;
  /** The program that prints this kernel's report (`printKernelReport`), and its arguments. Absent: none is sent. */
  probe?: readonly [string, ...string[]];
}

/** Runs until SIGTERM or SIGINT. Resolves to the exit code; running commands are left to their supervisors. */
export const runDaemon = async ({ flags, env, json, configFile, probe }: RunOptions): Promise<number> => {
  const stopping = Promise.withResolvers<NodeJS.Signals>();
  const abort = new AbortController();
  const onSignal = (signal: NodeJS.Signals): void => {
    abort.abort();
    stopping.resolve(signal);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, onSignal);
  // A log reader or parent that went away must not end the node.
  process.on('SIGPIPE', () => undefined);
  let reconcile = (): void => undefined;
  process.on('SIGHUP', () => reconcile());
  try {
    const { config } = loadDaemonConfig({ flags, env, configFile });
    const log = createLog({ level: config.log_level, format: config.log_format }, writeStderr);
    const daemon = await startDaemon({
      config,
      log,
      faults: faultPointsFrom(env),
      signal: abort.signal,
      ...(probe ? { probeKernel: () => probeInProcess(probe, abort.signal) } : {}),
    });
    reconcile = () => {
      daemon.reconcile().catch((error: unknown) => log.error({ err: error }, 'cannot compare with the kernel'));
    };
    return await serve(daemon, { env, json, log, stopping: stopping.promise });
  } catch (error) {
    if (abort.signal.aborted) return 0; // stopped while it still waited for the server
    return fail(error, json);
  } finally {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.removeListener(signal, onSignal);
  }
};

const PROBE_MS = 60_000;

/** What the probe loads would stay in this process for good: the addon, libbpf and its memory. */
const probeInProcess = async ([program, ...args]: readonly [string, ...string[]], signal: AbortSignal) => {
  const { execFile } = await import('node:child_process');
  const { promisify } = await import('node:util');
  const { stdout } = await promisify(execFile)(program, args, { timeout: PROBE_MS, killSignal: 'SIGKILL', signal });
  return JSON.parse(stdout) as KernelReport;
};

/** In the process that `probe` names: tries every kind of program and attachment, where it touches nothing, and prints the report. */
export const printKernelReport = async (): Promise<void> => {
  const { probeKernel } = await import('@aegis/bpf-loader/probe');
  const { release, architecture, btf, bpffs, cgroup2, jit, kinds } = await probeKernel();
  const report: KernelReport = { release, architecture, btf, bpffs, cgroup2, jit, kinds };
  process.stdout.write(`${JSON.stringify(report)}\n`);
};

const serve = async (
  daemon: RunningDaemon,
  {
    env,
    json,
    log,
    stopping,
  }: { env: NodeJS.ProcessEnv; json: boolean; log: Logger; stopping: Promise<NodeJS.Signals> },
): Promise<number> => {
  const { uid, name, server, fleet } = daemon.status();
  process.stdout.write(
    json
      ? `${JSON.stringify({ ready: true, uid, name, server, fleet, pid: process.pid })}\n`
      : `aegis daemon: ${name} (${uid}) serves ${server}\n`,
  );
  if (env.NOTIFY_SOCKET) sdNotify(`READY=1\nSTATUS=node ${name}, server ${server}`, env);
  const stopWatchdog = startWatchdog(daemon, env, log);
  const signal = await stopping;
  log.info({ signal }, 'stopping; running commands go on and are taken up by the next start');
  if (env.NOTIFY_SOCKET) sdNotify('STOPPING=1', env);
  stopWatchdog();
  await daemon.close();
  return 0;
};

/** Says that we live only after the event loop came round and the journal answered: a daemon that hangs is restarted. */
const startWatchdog = (daemon: RunningDaemon, env: NodeJS.ProcessEnv, log: Logger): (() => void) => {
  const intervalMs = env.NOTIFY_SOCKET ? watchdogIntervalMs(env) : null;
  if (intervalMs === null) return () => undefined;
  const timer = setInterval(() => {
    try {
      daemon.prove();
      sdNotify('WATCHDOG=1', env);
    } catch (error) {
      log.error({ err: error }, 'the journal does not answer');
    }
  }, intervalMs / 2);
  return () => clearInterval(timer);
};

const writeStderr = (line: string): void => {
  try {
    writeSync(2, line);
  } catch {
    // A full or closed stderr loses log lines, never work.
  }
};

/** The server said no to this configuration, and will again: the unit's RestartPreventExitStatus=2 leaves it at that. */
const REFUSED: ReadonlySet<string> = new Set([
  'access.untrusted',
  'nodes.already_enrolled',
  'nodes.bad_join_token',
  'nodes.bad_proof',
  'nodes.keyless_disabled',
  'nodes.name_taken',
  'nodes.not_enrolled',
  'nodes.retired',
]);

const fail = (error: unknown, json: boolean): number => {
  const known = error instanceof AegisError;
  const code = known ? error.code : 'http.internal';
  const message = error instanceof Error ? error.message : String(error);
  writeStderr(json ? `${JSON.stringify({ error: { code, message } })}\n` : `aegis daemon: ${message}\n`);
  return REFUSED.has(code) ? 2 : plainExitCodeOf(code);
};
