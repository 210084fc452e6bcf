import type { Log } from '../../platform/log.ts';
import { loop } from '../../platform/loop.ts';
import type { AuditService } from './service.ts';

const FLUSH_MS = 10_000;

/** Signs and cuts the chain; writes the number of refusals of the minutes that are over. */
export const auditLoops = (audit: AuditService, signEverySec: number, signal: AbortSignal, log: Log): void => {
  loop({ name: 'access.audit', everyMs: signEverySec * 1000, turn: audit.upkeep, signal, log });
  loop({ name: 'access.audit-refusals', everyMs: FLUSH_MS, turn: async () => audit.flush(), signal, log });
};
