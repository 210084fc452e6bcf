import type { Log } from '../log.ts';
import { loop } from '../loop.ts';
import type { Storage } from './storage.ts';

const EVERY_MS = 10 * 60_000;

/** Lets the database do its housekeeping. */
export const maintenanceLoop = <DB>(storage: Pick<Storage<DB>, 'maintain'>, signal: AbortSignal, log: Log): void =>
  loop({ name: 'storage.maintenance', everyMs: EVERY_MS, turn: storage.maintain, signal, log });
