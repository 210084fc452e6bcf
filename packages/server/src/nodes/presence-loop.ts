import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { NodesService } from './service.ts';

const EVERY_MS = 10_000; // a status is at most this much too old for another server process

/** Stores the signs of life that came since the last turn. */
export const presenceLoop = (nodes: Pick<NodesService, 'storeSeen'>, signal: AbortSignal, log: Log): void =>
  loop({ name: 'nodes.presence', everyMs: EVERY_MS, turn: nodes.storeSeen, signal, log });
