import { type OfferedCommand, POLL_LIMIT, type PollAnswer } from '@aegis/protocol/commands/carrier';
import type { Bus } from '../platform/bus.ts';
import { type Clock, isoTime } from '../platform/clock.ts';
import { turns } from '../platform/turns.ts';
import { type Wakeup, wakeup } from '../platform/wakeup.ts';
import type { Storage } from '../tables.ts';
import { nodeTopic, roomTopic } from './changes.ts';
import { type Addressee, cancelDirective, type Signer } from './directives.ts';
import type { DispatchRepository, DueCancel, DueRun, Offer } from './dispatch-repository.ts';
import { type KeyIdsOf, offerTexts } from './offer-texts.ts';
import { cancelFor } from './operator-cancels.ts';

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
  /** The revision of its desired state that the node holds; absent for one that does not ask. */
  desired?: number | undefined;
  /** Aborted when the node hangs up or the server stops. */
  signal: AbortSignal;
  stopping: () => boolean;
}

/** Of a node's desired state. Wakes of `nodeTopic` also tell that it may have grown. */
export interface DesiredRevisions {
  revisionOf(nodeUid: string, held: number): Promise<number>;
}

/** Whether a node may still be answered: an operator may retire it while its poll waits, here or at another server process. */
export interface Standing {
  /** @throws AegisError when it may not */
  require(nodeUid: string): Promise<unknown>;
  /** Calls `listener` at each change of the node, and when there may have been one. */
  watch(nodeUid: string, listener: () => void): Disposable;
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
  keyIdsOf: KeyIdsOf;
  desired: DesiredRevisions;
  standing: Standing;
  limits: DispatchLimits;
}) => {
  const { storage, repository, bus, clock, limits } = on;
  const offeredRuns = offerTexts(on);
  const waiting = new Map<string, { superseded: boolean; wakeup: Wakeup }>();

  const markOffered = storage.writeTogether(
    'commands.offer',
    async (tx, offers: readonly { runs: Offer; cancels: Offer }[]) => {
      const runs = await repository.markOffered(
        tx,
        offers.map((one) => one.runs),
      );
      const cancels = await repository.markCancelsOffered(
        tx,
        offers.map((one) => one.cancels),
      );
      return offers.map(() => ({ runs, cancels }));
    },
  );

  const offer = async (node: PollingNode, resume: boolean): Promise<{ commands: OfferedCommand[]; full: boolean }> => {
    const now = clock.now();
    const due = await repository.dueNow(node.uid, now, POLL_LIMIT, resume);
    const { cancels } = due;
    // A keyless poller is not asked about what it acknowledged: it may not know that it ran it. A daemon remembers, and so
    // tells a server that was restored from a backup what became of it.
    const again = resume ? await repository.offeredRuns(node.uid, now, POLL_LIMIT, node.keyId !== null) : [];
    const known = new Set(idsOf(again));
    const fresh = due.runs.filter(({ id }) => !known.has(id));
    const room = Math.max(0, limits.maxInFlightPerNode - due.inFlight);
    const full = fresh.length > room;
    const runs = withinSize([...again, ...fresh.slice(0, room)].slice(0, POLL_LIMIT - cancels.length));
    if (cancels.length + runs.length === 0) return { commands: [], full };
    const at = { now, redeliverAt: now + limits.redeliverAfterMs };
    const offered = await markOffered({ runs: { ids: idsOf(runs), ...at }, cancels: { ids: idsOf(cancels), ...at } });
    const stopped = cancels.filter(({ id }) => offered.cancels.has(id));
    const own = await repository.operatorCancels(stopped.map(({ command_id }) => command_id));
    const commands = await Promise.all(
      stopped.map((cancel) => offeredCancel(on.signer, node, cancel, own.get(cancel.command_id))),
    );
    return {
      full,
      commands: [
        ...commands,
        ...(await offeredRuns(
          node,
          runs.filter(({ id }) => offered.runs.has(id)),
        )),
      ],
    };
  };

  const desiredOf = async (node: PollingNode, { desired }: PollRequest): Promise<{ desired?: number }> =>
    desired === undefined ? {} : { desired: await on.desired.revisionOf(node.uid, desired) };

  return {
    /** Answers with work as soon as there is some or the node's desired state is another than it holds, at the latest after `waitSec`, at once when a newer poll of the node comes.
     *  @throws AegisError at once when the node may not be answered any more */
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
      let changed = true; // it may have been retired since it was asked who it is
      using _facts = on.standing.watch(node.uid, () => {
        changed = true;
        wake();
      });
      using room = new DisposableStack();
      let watchesRoom = false;
      try {
        const until = performance.now() + request.waitSec * 1000;
        for (let first = true; ; first = false) {
          await turns.turn(); // a command to all wakes thousands at once
          if (own.superseded || request.signal.aborted) break;
          if (changed) {
            changed = false;
            await on.standing.require(node.uid);
          }
          const { commands, full } = await offer(node, request.resume && first);
          const told = await desiredOf(node, request);
          // Another one, not a newer one: a server that was restored from a backup names what it has now.
          if (commands.length > 0 || told.desired !== request.desired)
            return { commands, server_time: isoTime(clock.now()), ...told };
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
          ...(await desiredOf(node, request)),
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

const idsOf = (rows: readonly { id: string }[]): string[] => rows.map(({ id }) => id);

const withinSize = (runs: readonly DueRun[]): DueRun[] => {
  let bytes = 0;
  const tooMuch = runs.findIndex((run) => {
    bytes += run.text_chars;
    return bytes > ANSWER_BYTES;
  });
  return tooMuch < 0 ? [...runs] : runs.slice(0, Math.max(1, tooMuch));
};

const offeredCancel = async (
  signer: Signer,
  node: PollingNode,
  cancel: DueCancel,
  own: string | undefined,
): Promise<OfferedCommand> => ({
  kind: 'command.cancel',
  command_id: cancel.command_id,
  execution_id: cancel.id,
  attempt: cancel.attempt,
  directive: await cancelDirective(signer, node, cancel),
  operator_directive: own === undefined ? undefined : cancelFor(own, node),
});
