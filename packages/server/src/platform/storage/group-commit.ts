import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { CompiledQuery, type ControlledTransaction, type Kysely, type Transaction } from 'kysely';
import { asUnavailable } from './failures.ts';
import type { Storage, StorageKind } from './storage.ts';

/** Group commit: while one transaction runs, further works queue, and the next transaction takes them together, so that many
 *  share one fsync. Each has its own savepoint; one that throws is undone and rejected alone. */

export interface GroupCommitLimits {
  /** Works that one transaction takes at most: bounds how long the first of them waits for the last. */
  batch: number;
  /** Works that may wait (`max_waiting_writes`); one more is refused with 503. */
  queue: number;
}
export const GROUP_COMMIT_LIMITS: GroupCommitLimits = { batch: 256, queue: 16_384 };

/** Does the works of `items`, and answers each. */
type Work<DB> = (tx: Transaction<DB>, items: readonly unknown[]) => Promise<readonly unknown[]>;
interface QueuedWork<DB> {
  label: string;
  /** The same function: what may be done together. */
  run: Work<DB>;
  item: unknown;
  /** Done after the other kinds of its transaction. */
  last: boolean;
  /** How often the database has ended it for another's sake. */
  yielded: number;
  resolve: (value: unknown) => void;
  reject: (reason: unknown) => void;
}
type Outcome = { value: unknown } | { error: unknown };
type Outcomes<DB> = Map<QueuedWork<DB>, Outcome>;

export const SAVEPOINT = CompiledQuery.raw('savepoint work');
/** From one work to the next, in as few round trips as the database allows. */
export const NEXT_WORK = {
  sqlite: [CompiledQuery.raw('release savepoint work'), SAVEPOINT],
  postgres: [CompiledQuery.raw('release savepoint work; savepoint work')],
} as const satisfies Record<StorageKind, readonly CompiledQuery[]>;
const ROLLBACK_WORK = CompiledQuery.raw('rollback to savepoint work');

export interface GroupCommit<DB> {
  write: Storage<DB>['write'];
  writeTogether: Storage<DB>['writeTogether'];
  onCommit: Storage<DB>['onCommit'];
  /** Does `work` in the next transaction, before all that waits and even when no more may wait: what asks whether writing works
   *  shall not be told that others write a lot. Few may call it, and seldom. */
  probe(work: (tx: Transaction<DB>) => Promise<unknown>): Promise<unknown>;
  /** No more works are taken at the moment. */
  isFull(): boolean;
  /** Refuses further works and resolves when the queued ones are done. */
  drain(): Promise<void>;
}

export const groupCommit = <DB>(
  database: { kind: StorageKind; writer: Kysely<DB> },
  faults: FaultPoints,
  limits: GroupCommitLimits = GROUP_COMMIT_LIMITS,
): GroupCommit<DB> => {
  let queue: QueuedWork<DB>[] = [];
  let loop: Promise<void> | null = null;
  let begin = (): void => undefined;
  let closed = false;
  const listeners: (() => void)[] = [];
  const committed = (): void => {
    for (const listener of listeners) listener();
  };

  const runQueue = async (): Promise<void> => {
    while (queue.length > 0) {
      // One turn of the event loop: the requests that are readable now join this transaction instead of the next. Where a whole batch is
      // there already, nobody waits for the loop, which may have thousands of sockets to read from first.
      await new Promise<void>((resolve) => {
        begin = resolve;
        setImmediate(resolve);
        if (queue.length >= limits.batch) resolve();
      });
      const batch = queue.slice(0, limits.batch);
      queue = queue.slice(limits.batch);
      queue.unshift(...(await commitBatch(database, batch, faults, committed)));
    }
    loop = null;
  };

  const isFull = (): boolean => queue.length >= limits.queue;
  const enqueue = <O>(label: string, run: Work<DB>, item: unknown, place?: 'first' | 'last'): Promise<O> =>
    new Promise<O>((resolve, reject) => {
      if (closed) return reject(refused('The server is stopping. Send the request again in a few seconds.'));
      if (isFull() && place !== 'first')
        return reject(refused('The server has more to store than it can at the moment. Send the request again.'));
      const last = place === 'last';
      const work = { label, run, item, last, yielded: 0, resolve: resolve as (value: unknown) => void, reject };
      if (place === 'first') queue.unshift(work);
      else queue.push(work);
      loop ??= runQueue();
      if (queue.length >= limits.batch) begin();
    });

  return {
    write: (label, work) => enqueue(label, async (tx) => [await work(tx)], undefined),
    writeTogether:
      <I, O>(
        label: string,
        work: (tx: Transaction<DB>, items: readonly I[]) => Promise<readonly O[]>,
        options: { last?: true } = {},
      ) =>
      (item: I) =>
        enqueue<O>(label, work as Work<DB>, item, options.last ? 'last' : undefined),
    onCommit: (listener) => void listeners.push(listener),
    probe: (work) => enqueue('probe', async (tx) => [await work(tx)], undefined, 'first'),
    isFull,
    drain: async () => {
      closed = true;
      await loop;
    },
  };
};

const refused = (message: string) => new AegisError('http.unavailable', message, { retryAfterSec: 1 });

/** Two server processes may each wait for what the other has locked: PostgreSQL ends one of the two, of which then nothing has happened. */
const MOST_YIELDS = 5;
const mayComeAgain = <DB>(work: QueuedWork<DB>, error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === '40P01' && ++work.yielded <= MOST_YIELDS;

/** Never rejects: each work's own promise tells. @returns those that are to be done once more */
const commitBatch = async <DB>(
  { kind, writer }: { kind: StorageKind; writer: Kysely<DB> },
  batch: readonly QueuedWork<DB>[],
  faults: FaultPoints,
  committed: () => void,
): Promise<QueuedWork<DB>[]> => {
  let tx: ControlledTransaction<DB> | undefined;
  let outcomes: Outcomes<DB>;
  try {
    tx = await writer.startTransaction().execute();
    outcomes = batch.length === 1 ? await runAlone(tx, batch) : await runWithSavepoints(tx, batch, NEXT_WORK[kind]);
    for (const { label } of batch) faults.at(`server.before-commit.${label}`);
    // A commit that fails may yet have happened (the connection broke before the answer): reported as failed, the sender
    // sends again, and what is stored twice is stored once.
    await tx.commit().execute();
    committed();
    for (const { label } of batch) faults.at(`server.after-commit.${label}`);
  } catch (error) {
    await abandon(tx);
    const reason = asUnavailable(error);
    const again = batch.filter((work) => mayComeAgain(work, error));
    for (const work of batch) if (!again.includes(work)) work.reject(reason);
    return again;
  }
  const again: QueuedWork<DB>[] = [];
  for (const work of batch) {
    const outcome = outcomes.get(work);
    if (outcome && 'value' in outcome) work.resolve(outcome.value);
    else if (mayComeAgain(work, outcome?.error)) again.push(work);
    else work.reject(asUnavailable(outcome?.error));
  }
  return again;
};

/** A single work needs no savepoint: its failure is the transaction's. */
const runAlone = async <DB>(tx: Transaction<DB>, works: readonly QueuedWork<DB>[]): Promise<Outcomes<DB>> =>
  outcomesOf(works, await runTogether(tx, works));

const runTogether = async <DB>(tx: Transaction<DB>, works: readonly QueuedWork<DB>[]): Promise<readonly unknown[]> =>
  (await works[0]?.run(
    tx,
    works.map(({ item }) => item),
  )) ?? [];

const outcomesOf = <DB>(works: readonly QueuedWork<DB>[], values: readonly unknown[]): Outcomes<DB> =>
  new Map(works.map((work, at) => [work, { value: values[at] }]));

/** Works that are of one kind, in the place of the first of them, or at the end. */
const grouped = <DB>(batch: readonly QueuedWork<DB>[]): QueuedWork<DB>[][] => {
  const groups = [...Map.groupBy(batch, ({ run }) => run).values()];
  const atEnd = (works: QueuedWork<DB>[]): boolean => works[0]?.last ?? false;
  return [...groups.filter((works) => !atEnd(works)), ...groups.filter(atEnd)];
};

/** @throws what made the transaction itself unusable (a full disk, a broken connection): then no work counts */
const runWithSavepoints = async <DB>(
  tx: Transaction<DB>,
  batch: readonly QueuedWork<DB>[],
  nextWork: readonly CompiledQuery[],
): Promise<Outcomes<DB>> => {
  const outcomes: Outcomes<DB> = new Map();
  const groups = grouped(batch);
  await tx.executeQuery(SAVEPOINT);
  for (let works = groups.shift(); works; works = groups.shift()) {
    try {
      for (const [work, outcome] of outcomesOf(works, await runTogether(tx, works))) outcomes.set(work, outcome);
      if (groups.length === 0) break;
      for (const statement of nextWork) await tx.executeQuery(statement);
    } catch (error) {
      for (const work of works) outcomes.set(work, { error });
      // The savepoint survives going back to it: the next work uses it as it is.
      await tx.executeQuery(ROLLBACK_WORK).catch((cause: unknown) => {
        throw lostTransaction(error, cause);
      });
      if (works.length > 1) groups.unshift(...works.map((work) => [work])); // to fail alone, or not
    }
  }
  return outcomes;
};

/** What broke the transaction is told by the first error; that the savepoint is gone only follows from it. */
const lostTransaction = (error: unknown, cause: unknown): unknown => {
  const first = asUnavailable(error);
  return first instanceof AegisError && first.code === 'http.unavailable' ? first : cause;
};

const abandon = async <DB>(tx: ControlledTransaction<DB> | undefined): Promise<void> => {
  if (!tx || tx.isCommitted || tx.isRolledBack) return;
  // SQLite may have rolled back by itself and a broken connection cannot: either way nothing of it stays.
  await tx
    .rollback()
    .execute()
    .catch(() => undefined);
};
