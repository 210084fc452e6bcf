import type { Log } from '../log.ts';
import { loop } from '../loop.ts';

/** Looks whether there is another certificate: two `stat`s a turn. */
export const tlsReloadLoop = (check: () => Promise<void>, everyMs: number, signal: AbortSignal, log: Log): void =>
  loop({ name: 'http.tls-reload', everyMs, turn: check, signal, log });
