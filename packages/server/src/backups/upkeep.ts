import { oneAtATime } from '../platform/one-at-a-time.ts';
import type { AfterEnd } from './after-end.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { LogService } from './log.ts';
import { removalsRepository } from './retention/removals-repository.ts';
import { objectRemoval, type RemoveOwn } from './retention/remove-objects.ts';
import { retentionService } from './retention/service.ts';
import type { BackupParts } from './service.ts';
import type { Stores } from './stores.ts';
import type { ConfigRow, RunRow } from './tables.ts';

/** What is done about runs once they have ended, put together. */

export const upkeepService = (
  parts: BackupParts,
  on: {
    configs: ConfigsRepository;
    findConfig: (id: string) => Promise<ConfigRow>;
    stores: Stores;
    lines: LogService;
    removeOwn: RemoveOwn;
  },
) => {
  const { storage, runs, destinations, nodes, clock, log } = parts;
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
  const after: AfterEnd = {
    inTransaction: async () => undefined,
    afterwards: (run: RunRow) => {
      retention.runEnded(run);
    },
  };
  return {
    retention,
    after,
    start: (signal: AbortSignal): void => {
      retention.start(signal);
    },
  };
};
export type UpkeepService = ReturnType<typeof upkeepService>;
