import { type OfferedCommand, POLL_LIMIT, type PollAnswer } from '@aegis/protocol/commands/carrier';
import type { Bus } from '../platform/bus.ts';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Storage } from '../tables.ts';
import { nodeTopic, roomTopic } from './changes.ts';
import { type Addressee, type CommandText, cancelDirective, runDirective, type Signer } from './directives.ts';
import type { DispatchRepository, DueCancel, DueRun } from './dispatch-repository.ts';
import { type Wakeup, wakeup } from './wakeup.ts';

/** Long polls. An offer is committed before it is answered, so that what the server decides later knows whether a node may hold
 *  the execution. A node has one poll at a time: the newer one wins, since the older connection is most likely dead. */

export interface DispatchLimits {
  redeliverAfterMs: number;
  maxInFlightPerNode: number;
}
export interface PollingNode extends Addressee {
  uid: string;
}
export interface PollRequest {
  waitSec: number;
  resume: boolean;
  /** Aborted when the node hangs up or the server stops. */
  signal: AbortSignal;
  stopping: () => boolean;
}

/** Payloads of one answer together, in bytes; base64 makes a third more of them, and a daemon reads answers of up to 16 MiB. */
const ANSWER_BYTES = 8 * 1024 * 1024;
/** A poll that finds what it cannot offer yet (the clock and the database disagree, say) looks again after this at the earliest. */
const LEAST_PAUSE_MS = 20;
const RETRY_AFTER_STOP_MS = 2000;

export const dispatchService = (on: {
  storage: Storage;
  repository: DispatchRepository;
  bus: Bus;
  clock: Clock;
  signer: Signer;
  limits: DispatchLimits;
}) => {
  const { storage, repository, bus, clock, limits } = on;
  const waiting = new Map<string, { superseded: boolean; wakeup: Wakeup }>();

  const offer = async (node: PollingNode, resume: boolean): Promise<{ commands: OfferedCommand[]; full: boolean }> => {
    const now = clock.now();
    const cancels = await repository.cancels(node.uid, now, POLL_LIMIT, resume);
    const { runs, full } = await runsFor(node, now, POLL_LIMIT - cancels.length, resume);
    if (cancels.length + runs.length === 0) return { commands: [], full };
    const redeliverAt = now + limits.redeliverAfterMs;
    const offered = await storage.write('commands.offer', async (tx) => ({
      runs: runs.length > 0 ? await repository.markOffered(tx, idsOf(runs), now, redeliverAt) : NONE,
      cancels: cancels.length > 0 ? await repository.markCancelsOffered(tx, idsOf(cancels), now, redeliverAt) : NONE,
    }));
    const commands = await Promise.all([
      ...cancels.filter(({ id }) => offered.cancels.has(id)).map((cancel) => offeredCancel(on.signer, node, cancel)),
      ...(await offeredRuns(
        node,
        runs.filter(({ id }) => offered.runs.has(id)),
      )),
    ]);
    return { full, commands };
  };

  const runsFor = async (
    node: PollingNode,
    now: number,
    limit: number,
    resume: boolean,
  ): Promise<{ runs: DueRun[]; full: boolean }> => {
    // A keyless poller is not asked about what it acknowledged: it may not know that it ran it. A daemon remembers, and so
    // tells a server that was restored from a backup what became of it.
    const again = resume ? await repository.offeredRuns(node.uid, now, limit, node.keyId !== null) : [];
    const due = await repository.dueRuns(node.uid, now, limit);
    if (due.length + again.length === 0) return { runs: [], full: false };
    const known = new Set(idsOf(again));
    const fresh = due.filter(({ id }) => !known.has(id));
    const room = fresh.length > 0 ? limits.maxInFlightPerNode - (await repository.inFlight(node.uid, now)) : 0;
    const runs = withinSize([...again, ...fresh.slice(0, Math.max(0, room))].slice(0, limit));
    return { runs, full: fresh.length > Math.max(0, room) };
  };

  const offeredRuns = async (node: PollingNode, runs: readonly DueRun[]): Promise<Promise<OfferedCommand>[]> => {
    if (runs.length === 0) return [];
    const commands = new Map((await repository.commandTexts(runs.map((run) => run.command_id))).map((c) => [c.id, c]));
    return runs.flatMap((run) => {
      const command = commands.get(run.command_id);
      return command ? [offeredRun(on.signer, node, run, command)] : []; // deleted since: its retention ended
    });
  };

  return {
    /** Answers with work as soon as there is some, at the latest after `waitSec`, at once when a newer poll of the node comes. */
    poll: async (node: PollingNode, request: PollRequest): Promise<PollAnswer> => {
      const own = { superseded: false, wakeup: wakeup() };
      const older = waiting.get(node.uid);
      waiting.set(node.uid, own);
      if (older) {
        older.superseded = true;
        older.wakeup.wake();
      }
      const wake = () => own.wakeup.wake();
      request.signal.addEventListener('abort', wake, { once: true });
      // Before the first look: what comes between the look and the wait must wake it.
      using _work = bus.subscribe(nodeTopic(node.uid), wake);
      using room = new DisposableStack();
      let watchesRoom = false;
      try {
        const until = performance.now() + request.waitSec * 1000;
        for (let first = true; ; first = false) {
          if (own.superseded || request.signal.aborted) break;
          const { commands, full } = await offer(node, request.resume && first);
          if (commands.length > 0) return { commands, server_time: isoTime(clock.now()) };
          const left = until - performance.now();
          if (left <= 0) break;
          if (full && !watchesRoom) {
            room.use(bus.subscribe(roomTopic(node.uid), wake));
            watchesRoom = true;
            continue; // room may have come before it was watched
          }
          const due = await repository.nextDue(node.uid, clock.now(), full);
          const pause = due === null ? left : Math.max(LEAST_PAUSE_MS, due - clock.now());
          await own.wakeup.wait(Math.min(left, pause));
        }
        return {
          commands: [],
          server_time: isoTime(clock.now()),
          ...(request.stopping() ? { retry_after_ms: RETRY_AFTER_STOP_MS } : {}),
        };
      } finally {
        request.signal.removeEventListener('abort', wake);
        if (waiting.get(node.uid) === own) waiting.delete(node.uid);
      }
    },
    /** How many polls wait: for statistics and tests. */
    waiting: (): number => waiting.size,
  };
};
export type DispatchService = ReturnType<typeof dispatchService>;

const NONE: ReadonlySet<string> = new Set();
const idsOf = (rows: readonly { id: string }[]): string[] => rows.map(({ id }) => id);

const withinSize = (runs: readonly DueRun[]): DueRun[] => {
  let bytes = 0;
  const tooMuch = runs.findIndex((run) => {
    bytes += run.text_chars;
    return bytes > ANSWER_BYTES;
  });
  return tooMuch < 0 ? [...runs] : runs.slice(0, Math.max(1, tooMuch));
};

const offeredRun = async (
  signer: Signer,
  node: PollingNode,
  run: DueRun,
  command: CommandText,
): Promise<OfferedCommand> => {
  const payload: unknown = JSON.parse(command.payload);
  return {
    kind: 'command.run',
    command_id: run.command_id,
    execution_id: run.id,
    attempt: run.attempt,
    ...(node.keyId === null ? { command_type: command.command_type, payload } : {}),
    directive: await runDirective(signer, node, command, payload),
  };
};

const offeredCancel = async (signer: Signer, node: PollingNode, cancel: DueCancel): Promise<OfferedCommand> => ({
  kind: 'command.cancel',
  command_id: cancel.command_id,
  execution_id: cancel.id,
  attempt: cancel.attempt,
  directive: await cancelDirective(signer, node, cancel),
});
