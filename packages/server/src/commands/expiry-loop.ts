import { decidedByServer, isFinalCommand } from '@aegis/protocol/commands/state';
import type { Bus } from '../platform/bus.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { Storage } from '../tables.ts';
import { type ChangeRules, Changes, standingOf, wasOffered } from './changes.ts';
import type { ExecutionsRepository } from './executions-repository.ts';
import type { DueCommand, ExpiryRepository } from './expiry-repository.ts';
import type { LiveExecution } from './tables.ts';

/** What time alone does to commands: what was not fetched in time expires, what nobody speaks of any more is presumed lost, and
 *  what ended long ago is deleted. One instant per command (`check_at`) says when to look, so a turn costs what is due. */

const EVERY_MS = 1000;
const COMMANDS_PER_TURN = 200;
const EXECUTIONS_PER_WRITE = 500;
/** Rows of output of up to 1 MiB: a transaction that deletes more would make reports wait. */
const OUTPUT_ROWS_PER_WRITE = 64;
const LOOK_AGAIN_MS = 60_000;

export interface ExpiryTurn {
  /** One turn: everything that is due by the clock. Exported for tests. */
  tick(): Promise<void>;
}

export const expiryTurn = (on: {
  storage: Storage;
  executions: ExecutionsRepository;
  repository: ExpiryRepository;
  bus: Bus;
  rules: () => ChangeRules;
  lostAfterMs: number;
  /** The last sign of life of nodes, by uid. */
  lastSeen: (nodeUids: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  wakeLate: () => void;
}): ExpiryTurn => {
  const { storage, repository, executions, bus, lostAfterMs } = on;

  /** @returns when the execution may be presumed lost. With a limit of its own it should have ended: then silence about it
   *  counts, also from a node that is there but was told of it by a server since restored. Without one only the node's does. */
  const lostAt = (row: LiveExecution, command: DueCommand, seen: ReadonlyMap<string, number>): number => {
    const heard = command.deadline_at === null ? Math.max(row.heard_at, seen.get(row.node_uid) ?? 0) : row.heard_at;
    return Math.max(heard, command.deadline_at ?? command.expires_at) + lostAfterMs;
  };

  const endOverdue = async (command: DueCommand): Promise<void> => {
    for (;;) {
      const { more, topics } = await storage.write('commands.expire', async (tx) => {
        const rules = on.rules();
        const rows = await executions.overdueOfCommand(tx, command.id, rules.now, EXECUTIONS_PER_WRITE);
        const heads = rows.length > 0 ? await executions.commandHeads(tx, rows) : [];
        const changes = new Changes(rows, heads, rules);
        for (const row of changes.executions()) {
          const expired = decidedByServer(standingOf(row), 'expired', wasOffered(row));
          if (expired) changes.settle(row, expired);
        }
        const outcome = changes.outcome();
        await executions.save(tx, outcome);
        return { more: rows.length === EXECUTIONS_PER_WRITE, topics: outcome.topics };
      });
      for (const topic of topics) bus.publish(topic);
      if (!more) return;
    }
  };

  const endSilent = async (command: DueCommand): Promise<void> => {
    const held = await executions.heldOfCommand(command.id);
    const seen = await on.lastSeen([...new Set(held.map((row) => row.node_uid))]);
    const { now } = on.rules();
    const silent = held.filter((row) => lostAt(row, command, seen) <= now).map((row) => row.id);
    const topics: string[] = [];
    for (let at = 0; at < silent.length; at += EXECUTIONS_PER_WRITE)
      topics.push(...(await presumeLost(command, silent.slice(at, at + EXECUTIONS_PER_WRITE), seen)));
    const next = Math.min(...held.map((row) => lostAt(row, command, seen)).filter((at) => at > now), Infinity);
    const again = Math.max(now + LOOK_AGAIN_MS, Number.isFinite(next) ? next : 0);
    await storage.write('commands.check', (tx) => repository.checkAgain(tx, command.id, again));
    for (const topic of topics) bus.publish(topic);
  };

  const presumeLost = (
    command: DueCommand,
    ids: readonly string[],
    seen: ReadonlyMap<string, number>,
  ): Promise<string[]> =>
    storage.write('commands.lost', async (tx) => {
      const rules = on.rules();
      const { rows, heads } = await executions.byIds(tx, ids);
      const changes = new Changes(rows, heads, rules);
      for (const row of changes.executions()) {
        if (lostAt(row, command, seen) > rules.now) continue; // news came meanwhile
        const lost = decidedByServer(standingOf(row), 'lost', true);
        if (!lost) continue;
        row.error_message = 'nothing was heard of it any more';
        changes.settle(row, lost);
      }
      const outcome = changes.outcome();
      await executions.save(tx, outcome);
      return outcome.topics;
    });

  /** In small transactions, the command's row last: a crash in between leaves it to the next turn. */
  const deleteCommand = async (command: DueCommand): Promise<void> => {
    for (;;) {
      const done = await storage.write('commands.delete', async (tx) => {
        if (!(await repository.stillExpired(tx, command.id, on.rules().now))) return true;
        if ((await repository.deleteOutput(tx, command.id, OUTPUT_ROWS_PER_WRITE)) > 0) return false;
        if ((await repository.deleteExecutions(tx, command.id, EXECUTIONS_PER_WRITE)) > 0) return false;
        await repository.deleteCommand(tx, command.id);
        return true;
      });
      if (done) return;
    }
  };

  return {
    tick: async () => {
      on.wakeLate();
      for (;;) {
        const due = await repository.dueCommands(on.rules().now, COMMANDS_PER_TURN);
        for (const command of due) {
          if (isFinalCommand(command.state)) {
            await deleteCommand(command);
          } else {
            await endOverdue(command);
            await endSilent(command);
          }
        }
        if (due.length < COMMANDS_PER_TURN) return;
      }
    },
  };
};

export const expiryLoop = (turn: ExpiryTurn, signal: AbortSignal, log: Log): void =>
  loop({ name: 'commands.expiry', everyMs: EVERY_MS, turn: turn.tick, signal, log });
