import { createHash } from 'node:crypto';
import type { Clock } from '../platform/clock.ts';
import { oneAtATime } from '../platform/one-at-a-time.ts';
import type { AfterEnd } from './after-end.ts';
import { absenceDetection } from './alerts/absence-loop.ts';
import { alertCommand } from './alerts/command.ts';
import { alertDelivery, type Receiver } from './alerts/delivery-loop.ts';
import { alertsRepository } from './alerts/repository.ts';
import { alertsService } from './alerts/service.ts';
import { shownUrl, webhook } from './alerts/webhook.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { LogService } from './log.ts';
import { removalsRepository } from './retention/removals-repository.ts';
import { objectRemoval, type RemoveOwn } from './retention/remove-objects.ts';
import { retentionService } from './retention/service.ts';
import type { BackupParts } from './service.ts';
import type { Stores } from './stores.ts';
import type { ConfigRow, RunRow } from './tables.ts';
import { runTold } from './told.ts';
import { scheduledVerification } from './verification/verify-loop.ts';
import type { RunVerification } from './verify-run.ts';

export interface AlertSettings {
  webhooks: readonly string[];
  /** Null only where there are no webhooks. */
  webhookSecret: string | null;
  command: readonly string[];
  timeoutMs: number;
  giveUpAfterMs: number;
  maxWaiting: number;
}

/** What is done about runs once they have ended, put together. */

export const upkeepService = (
  parts: BackupParts,
  on: {
    configs: ConfigsRepository;
    findConfig: (id: string) => Promise<ConfigRow>;
    stores: Stores;
    lines: LogService;
    assignments: AssignmentsRepository;
    removeOwn: RemoveOwn;
    alerts: AlertSettings;
    verify: RunVerification['verify'];
  },
) => {
  const { storage, runs, destinations, nodes, clock, newId, log } = parts;
  const removals = removalsRepository(storage);
  const retention = retentionService({
    configs: on.configs,
    destinations,
    removals,
    runs,
    remove: objectRemoval({
      removals,
      runs,
      destinations,
      stores: on.stores,
      removeOwn: on.removeOwn,
      lines: on.lines,
      clock,
      log,
    }),
    nodes,
    findConfig: on.findConfig,
    inTurn: oneAtATime(),
    clock,
    log,
  });
  const repository = alertsRepository(storage);
  const delivery = alertDelivery({
    repository,
    receivers: receiversOf(on.alerts, clock),
    timeoutMs: on.alerts.timeoutMs,
    giveUpAfterMs: on.alerts.giveUpAfterMs,
    clock,
    log,
  });
  const { tell } = parts;
  const alerts = alertsService({
    repository,
    delivery,
    maxWaiting: on.alerts.maxWaiting,
    clock,
    newId,
    tell,
    log,
  });
  const absence = absenceDetection({
    configs: on.configs,
    assignments: on.assignments,
    runs,
    repository,
    alerts,
    clock,
    log,
  });
  const verification = scheduledVerification({
    storage,
    configs: on.configs,
    nodesOf: removals.nodesOf,
    verify: on.verify,
    damaged: (run, { message }) => alerts.damaged(run, message),
    clock,
    log,
  });
  const after: AfterEnd = {
    inTransaction: async (tx, run) => {
      await parts.tell(tx, [runTold(run)]);
      await alerts.ended(tx, run);
    },
    afterwards: (run: RunRow) => {
      retention.runEnded(run);
      alerts.wake(run);
    },
  };
  return {
    retention,
    absence,
    verification,
    after,
    start: (signal: AbortSignal): void => {
      retention.start(signal);
      delivery.start(signal);
      absence.start(signal);
      verification.start(signal);
    },
  };
};
export type UpkeepService = ReturnType<typeof upkeepService>;

/** Rows name a webhook by its hash: an address may hold a secret. */
const receiversOf = (settings: AlertSettings, clock: Clock): Receiver[] => {
  const { webhooks, webhookSecret: secret, command, timeoutMs } = settings;
  const posted = secret === null ? [] : webhooks;
  return [
    ...posted.map((url) => ({
      id: createHash('sha256').update(url).digest('hex'),
      shown: `webhook at ${shownUrl(url)}`,
      deliver: webhook({ url, secret: secret ?? '', timeoutMs, now: clock.now }),
    })),
    ...(command.length === 0
      ? []
      : [{ id: 'command', shown: `command ${command[0]}`, deliver: alertCommand({ argv: command, timeoutMs }) }]),
  ];
};
