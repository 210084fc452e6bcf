/** systemd's notification protocol (sd_notify(3)), for a daemon under Type=notify with WatchdogSec. */
import { loadAddon } from './binaries.ts';

/** Sends e.g. `READY=1` to $NOTIFY_SOCKET. False when there is no such socket or it could not be sent. */
export const sdNotify = (state: string, env: NodeJS.ProcessEnv = process.env): boolean => {
  const socket = env.NOTIFY_SOCKET;
  if (!socket) return false;
  return loadAddon().sdNotify(socket, state);
};

/** How often systemd wants `WATCHDOG=1` at the latest, in milliseconds, or null when it does not. Send at half of it. */
export const watchdogIntervalMs = (env: NodeJS.ProcessEnv = process.env, pid: number = process.pid): number | null => {
  const micros = Number(env.WATCHDOG_USEC);
  if (!Number.isFinite(micros) || micros <= 0) return null;
  if (env.WATCHDOG_PID && Number(env.WATCHDOG_PID) !== pid) return null;
  return micros / 1000;
};
