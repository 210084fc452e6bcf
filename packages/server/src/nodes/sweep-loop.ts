import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { RegistrationsRepository } from './registrations-repository.ts';

const EVERY_MS = 60_000;
/** As long as this a completed enrolment answers a repeat: as long as the token that it gave is good. */
const REPEATS_MS = 24 * 3_600_000;

/** Forgets registrations and nonces that have expired. */
export const sweepLoop = (
  registrations: Pick<RegistrationsRepository, 'sweep'>,
  clock: Clock,
  signal: AbortSignal,
  log: Log,
): void =>
  loop({
    name: 'nodes.sweep',
    everyMs: EVERY_MS,
    turn: () => registrations.sweep(clock.now(), clock.now() - REPEATS_MS),
    signal,
    log,
  });
