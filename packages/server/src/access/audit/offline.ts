import { userInfo } from 'node:os';
import { AegisError, httpStatusOf } from '@aegis/protocol/errors';
import { uuidv7Generator } from '@aegis/protocol/ids';
import type { Clock } from '../../platform/clock.ts';
import type { Storage } from '../../tables.ts';
import { auditRepository } from './repository.ts';
import { bounded, summaryOf, targetsOf } from './wording.ts';

/** What is done on the data directory without the server, in the same chain and under the same action as the call would have: `begun` is
 *  durable before it happens, `ok` before its outcome is told. */

/** Who does it, by the operating system's word. */
export interface LocalUser {
  uid: number;
  name: string;
}

/** Of this process, before it becomes another user. Whom sudo names counts for root alone, who could say anything. */
export const localUser = (env: Readonly<Record<string, string | undefined>>): LocalUser => {
  const uid = process.geteuid?.() ?? 0;
  const name = nameOf(uid);
  return { uid, name: uid === 0 && env.SUDO_USER ? `${name} (sudo by ${env.SUDO_USER})` : name };
};
const nameOf = (uid: number): string => {
  try {
    return userInfo().username;
  } catch {
    return `uid ${uid}`; // no such user is listed on this machine
  }
};

/** @throws what `work` throws, and whatever keeps the entry from being written */
export const recordedOffline = async <T>(
  on: { storage: Storage; clock: Clock; by: LocalUser },
  call: { action: string; params?: unknown; body?: unknown },
  work: () => Promise<T>,
): Promise<T> => {
  const { append } = auditRepository(on.storage);
  const request_id = uuidv7Generator(on.clock.now)();
  const tell = (outcome: 'begun' | 'ok' | 'refused' | 'failed', code: string | null, result?: unknown) =>
    append({
      at: on.clock.now(),
      request_id,
      actor_kind: 'local',
      actor_id: String(on.by.uid),
      actor_name: bounded(on.by.name),
      key_id: null,
      action: call.action,
      targets: targetsOf(call.params, call.body, result),
      summary: summaryOf(call.body),
      address: null,
      outcome,
      code,
      count: 1,
    });
  await tell('begun', null);
  let result: T;
  try {
    result = await work();
  } catch (error) {
    const code = error instanceof AegisError ? error.code : 'http.internal';
    await tell(httpStatusOf(code) >= 500 ? 'failed' : 'refused', code);
    throw error;
  }
  await tell('ok', null, result);
  return result;
};
