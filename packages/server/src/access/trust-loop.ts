import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { AuditService } from './audit/service.ts';
import type { Trust } from './trust.ts';

/** Renews the trust bundle in time, and revokes server keys whose end has come, where the root's keys are here; where they are not, it says
 *  what people have to do. */

const EVERY_MS = 3_600_000;

type Parts = { trust: Trust; audit: Pick<AuditService, 'append'>; newId: () => string; clock: Clock; log: Log };

export const trustLoop = (parts: Parts & { signal: AbortSignal }): void => {
  const turn = () => renewTrust(parts);
  turn().catch((err: unknown) => parts.log.warn({ err }, 'the trust bundle cannot be looked after'));
  loop({ name: 'access.trust', everyMs: EVERY_MS, turn, signal: parts.signal, log: parts.log });
};

/** One turn. */
export const renewTrust = async ({ trust, audit, newId, clock, log }: Parts): Promise<void> => {
  try {
    if (!(await trust.renewWhenDue())) return;
  } catch (error) {
    if (!(error instanceof AegisError) || error.code !== 'access.root_key_absent') throw error;
    for (const warning of trustWarnings(trust)) log.warn({ code: error.code }, warning);
    return;
  }
  const { version, bundle } = trust.current();
  log.info({ trust_version: version, expires_at: bundle.expires_at }, 'the trust bundle is renewed');
  await audit.append({
    at: clock.now(),
    request_id: newId(),
    actor_kind: 'server',
    actor_id: null,
    actor_name: null,
    key_id: null,
    action: 'renewTrust',
    address: null,
    targets: [`trust version ${version}`],
    summary: [`expires_at=${bundle.expires_at}`],
    outcome: 'ok',
    code: null,
    count: 1,
  });
};

/** What people have to do in time. */
export const trustWarnings = (trust: Pick<Trust, 'age' | 'current'>): string[] => {
  const age = trust.age();
  if (age !== 'expiring' && age !== 'expired') return [];
  const { expires_at } = trust.current().bundle;
  return [
    age === 'expired'
      ? `The trust bundle expired at ${expires_at}, and no node obeys: renew it (aegis access trust draft, sign, publish).`
      : `The trust bundle expires at ${expires_at}, and then no node obeys: renew it (aegis access trust draft, sign, publish).`,
  ];
};
