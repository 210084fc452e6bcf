import { isGood } from '@aegis/protocol/backups/run';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { Log } from '../../platform/log.ts';
import type { Tell } from '../../platform/told.ts';
import type { Tx } from '../../tables.ts';
import { specOf } from '../config-views.ts';
import type { RunRow } from '../tables.ts';
import { alertTold } from '../told.ts';
import type { AlertDelivery } from './delivery-loop.ts';
import { type AlertEvent, damagedEvent, failedEvent, overdueEvent, recoveredEvent } from './event.ts';
import type { AlertsRepository } from './repository.ts';

/** alerts: what operators are told of backups. Each failure (a loss too) is told; an absence once, when it is noticed; and once that either is
 *  over. What is told is decided in the transaction that stores what happened, so that no crash comes between. */

export const alertsService = (on: {
  repository: AlertsRepository;
  delivery: AlertDelivery;
  maxWaiting: number;
  clock: Clock;
  newId: () => string;
  tell: Tell;
  log: Log;
}) => {
  const { repository, delivery, clock } = on;
  const base = () => ({ alert_id: on.newId(), at: isoTime(clock.now()) });
  const queue = async (tx: Tx, event: AlertEvent): Promise<void> => {
    await on.tell(tx, [alertTold(event)]);
    if (delivery.targets.length === 0) return;
    if ((await repository.countAlerts(tx)) + delivery.targets.length > on.maxWaiting) {
      on.log.error(
        { alert_id: event.alert_id, event: event.event, config: event.config.name, node: event.node?.name },
        'an alert is not sent: as many wait as may (backups.max_alerts)',
      );
      return;
    }
    const now = clock.now();
    const body = JSON.stringify(event);
    await repository.add(
      tx,
      delivery.targets.map((target) => ({
        id: on.newId(),
        made_at: now,
        next_at: now,
        tries: 0,
        target,
        body,
        error: null,
      })),
    );
  };

  return {
    /** Part of the transaction that stores the end of a run. */
    ended: async (tx: Tx, run: RunRow): Promise<void> => {
      const pair = { config_id: run.config_id, node_uid: run.node_uid ?? '' };
      if (isGood(run.state)) {
        const open = await repository.close(tx, pair);
        if (open.length > 0)
          await queue(tx, recoveredEvent(base(), run, Math.min(...open.map(({ opened_at }) => opened_at))));
        return;
      }
      if (run.state !== 'failed' && run.state !== 'lost') return;
      const config = await tx
        .selectFrom('backups_configs')
        .select('spec')
        .where('id', '=', run.config_id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst();
      if (!config || !specOf(config).alerts.on_failure) return;
      await repository.open(tx, { ...pair, kind: 'failure', opened_at: clock.now() });
      await queue(tx, failedEvent(base(), run));
    },
    /** Told once, until a run succeeds. */
    overdue: async (
      config: { id: string; name: string },
      node: { uid: string; name: string } | null,
      than: { since: number; expectSec: number; never: boolean },
    ): Promise<void> => {
      await repository.write('backups.overdue', async (tx) => {
        const row = { config_id: config.id, node_uid: node?.uid ?? '', kind: 'absence' as const };
        if (await repository.open(tx, { ...row, opened_at: clock.now() }))
          await queue(tx, overdueEvent(base(), config, node, than));
      });
      on.log.warn(
        { config: config.name, node: node?.name ?? null, since: isoTime(than.since) },
        'a backup has not succeeded for longer than is expected',
      );
      delivery.wake();
    },
    damaged: async (run: RunRow, why: string): Promise<void> => {
      await repository.write('backups.damaged', (tx) => queue(tx, damagedEvent(base(), run, why)));
      on.log.error(
        { run_id: run.id, config: run.config_name, node: run.node_name, why },
        'a verification found a backup damaged',
      );
      delivery.wake();
    },
    /** Once the end of a run is stored. */
    wake: (run: RunRow): void => {
      if (run.state === 'failed' || run.state === 'lost')
        on.log.warn(
          { run_id: run.id, config: run.config_name, node: run.node_name, state: run.state },
          'a backup failed',
        );
      delivery.wake();
    },
  };
};
export type AlertsService = ReturnType<typeof alertsService>;
