import { isUtf8 } from 'node:buffer';
import { STREAMS, type Stream } from '@aegis/protocol/commands/carrier';
import type { LogLine } from '@aegis/protocol/commands/endpoints';
import { isFinal, isFinalCommand } from '@aegis/protocol/commands/state';
import { AegisError } from '@aegis/protocol/errors';
import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import { type Wakeup, wakeup } from '../platform/wakeup.ts';
import { nodeStillEndsMs } from './cancelled-here.ts';
import { commandTopic, outputTopic } from './changes.ts';
import type { ListingRepository } from './listing-repository.ts';
import type { OutputRepository } from './output-repository.ts';
import type { ScopedParts } from './scoped-part.ts';
import { merged, storedRows } from './stored-stream.ts';
import type { ExecutionRow, OutputRow } from './tables.ts';
import { commandView, executionView } from './views.ts';

/** A command's output and states as lines, read once or followed until it has ended. A follower sleeps until the bus says that
 *  one of its executions changed, then reads the database: what it shows was committed. */

export interface LogSelection {
  commandId: string;
  within: Within;
  /** Name or uid. */
  node: string | undefined;
  attempt: number | undefined;
  stream: Stream | undefined;
  /** Bytes before it are left out. */
  offset: number | undefined;
  /** `execution:stream` → offset, stronger than `offset`. */
  from: ReadonlyMap<string, number>;
  follow: boolean;
  signal: AbortSignal;
}

/** Null is a sign of life, when nothing else was to be said for so long, and at once at the start. */
const SIGN_OF_LIFE_MS = 15_000;
const EXECUTIONS_AT_ONCE = 100;

interface Followed {
  position: { stdout: number; stderr: number };
  shown: string;
  final: boolean;
  /** Monotonic time until which its node may still say how it really ended; null: nothing is waited for. */
  endsBy: number | null;
  newest: boolean;
}

export const logLines = (on: {
  listing: ListingRepository;
  parts: ScopedParts;
  output: OutputRepository;
  bus: Bus;
  clock: Clock;
}) => {
  const { listing, parts, output, bus, clock } = on;

  async function* linesOf(selection: LogSelection): AsyncGenerator<LogLine | null> {
    const { commandId, within, follow, signal } = selection;
    const followed = new Map<string, Followed>();
    const dirty = new Set<string>();
    const sleeper = wakeup();
    const state = { listStale: true };
    using subscriptions = new DisposableStack();
    if (follow) {
      const wakeAll = () => {
        state.listStale = true;
        sleeper.wake();
      };
      subscriptions.use(bus.subscribe(commandTopic(commandId), wakeAll));
      signal.addEventListener('abort', sleeper.wake, { once: true });
      subscriptions.defer(() => signal.removeEventListener('abort', sleeper.wake));
      yield null;
    }
    while (!signal.aborted) {
      if (state.listStale) {
        state.listStale = false;
        await findNew(selection, followed, dirty, sleeper, subscriptions);
      }
      // Before the executions: when it is final now, what they show below is all there is.
      const command = await parts.command(commandId, within);
      if (!command) return; // deleted: its retention ended; or no node of it is within any more
      const changed = [...dirty];
      dirty.clear();
      for (let at = 0; at < changed.length; at += EXECUTIONS_AT_ONCE)
        for (const row of inOrder(changed.slice(at, at + EXECUTIONS_AT_ONCE), await rowsOf(changed, at, within)))
          yield* newsOf(selection, row, command.payload, followed);
      const ended = isFinalCommand(command.state) || allEnded(selection, followed);
      const stillMs = ended && follow ? stillEndsMs(followed) : 0;
      if (!follow || (ended && stillMs <= 0)) {
        if (signal.aborted) return;
        const last = (await parts.command(commandId, within)) ?? command;
        yield { type: 'end', command: commandView(last) };
        return;
      }
      if (dirty.size > 0 || state.listStale) continue;
      const before = performance.now();
      await sleeper.wait(ended ? Math.min(stillMs, SIGN_OF_LIFE_MS) : SIGN_OF_LIFE_MS);
      if (performance.now() - before >= SIGN_OF_LIFE_MS - 50) yield null;
    }
  }

  const rowsOf = (ids: readonly string[], at: number, within: Within): Promise<ExecutionRow[]> =>
    listing.executionsByIds(ids.slice(at, at + EXECUTIONS_AT_ONCE), within);

  const findNew = async (
    selection: LogSelection,
    followed: Map<string, Followed>,
    dirty: Set<string>,
    sleeper: Wakeup,
    subscriptions: DisposableStack,
  ): Promise<void> => {
    const { node, attempt } = selection;
    for (const key of await listing.executionKeys(selection.commandId, selection.within)) {
      if (followed.has(key.id)) continue;
      if (node !== undefined && key.node_uid !== node && key.node_name !== node) continue;
      if (attempt !== undefined && key.attempt !== attempt) continue;
      const start = (stream: Stream) => selection.from.get(`${key.id}:${stream}`) ?? selection.offset ?? 0;
      followed.set(key.id, {
        position: { stdout: start('stdout'), stderr: start('stderr') },
        shown: '',
        final: false,
        endsBy: null,
        newest: key.newest === 1,
      });
      dirty.add(key.id);
      if (!selection.follow) continue;
      const wake = () => {
        dirty.add(key.id);
        sleeper.wake();
      };
      subscriptions.use(bus.subscribe(outputTopic(key.id), wake));
    }
  };

  async function* newsOf(
    selection: LogSelection,
    row: ExecutionRow,
    payload: string,
    followed: ReadonlyMap<string, Followed>,
  ): AsyncGenerator<LogLine> {
    const one = followed.get(row.id);
    if (!one) return;
    const streams = STREAMS.filter((stream) => selection.stream === undefined || selection.stream === stream);
    const next = { stdout: row.stdout_next, stderr: row.stderr_next };
    const sources = streams
      .filter((stream) => one.position[stream] < next[stream])
      .map((stream) => ({
        tag: stream,
        rows: storedRows(output, row.id, stream, one.position[stream], next[stream]),
      }));
    for await (const { tag, row: stored } of merged(sources)) {
      yield lineOf(row, tag, stored);
      one.position[tag] = stored.start + stored.length;
      if (selection.signal.aborted) return;
    }
    one.final = isFinal(row.state);
    const stillMs = selection.follow ? nodeStillEndsMs(row, payload, clock.now()) : 0;
    one.endsBy = stillMs > 0 ? (one.endsBy ?? performance.now() + stillMs) : null;
    one.newest = row.newest === 1;
    const shown = `${row.state} ${row.presumed} ${row.started_at} ${row.finished_at}`;
    if (shown === one.shown) return;
    one.shown = shown;
    yield { type: 'state', execution: executionView(row) };
  }

  /** @throws AegisError commands.unknown_command, commands.unknown_execution before the first line */
  return async (selection: LogSelection): Promise<AsyncGenerator<LogLine | null>> => {
    const { commandId, node, within } = selection;
    await parts.commandOrThrow(commandId, within);
    if (node !== undefined && !(await listing.hasNode(commandId, node, within)))
      throw new AegisError(
        'commands.unknown_execution',
        `This command did not go to a node '${node}'. See 'aegis commands show'.`,
      );
    return linesOf(selection);
  };
};
export type LogLines = ReturnType<typeof logLines>;

const inOrder = (ids: readonly string[], rows: readonly ExecutionRow[]): ExecutionRow[] => {
  const byId = new Map(rows.map((row) => [row.id, row]));
  return ids.flatMap((id) => byId.get(id) ?? []);
};

/** With a selection: whether that has ended, though the command goes on elsewhere. A retry that is to come is newest and open. */
const allEnded = ({ node, attempt }: LogSelection, followed: ReadonlyMap<string, Followed>): boolean => {
  if (node === undefined && attempt === undefined) return false;
  const all = [...followed.values()];
  if (all.length === 0 || !all.every((one) => one.final)) return false;
  return attempt !== undefined || all.some((one) => one.newest);
};

const stillEndsMs = (followed: ReadonlyMap<string, Followed>): number => {
  let latest = 0;
  for (const { endsBy } of followed.values()) latest = Math.max(latest, endsBy ?? 0);
  return latest - performance.now();
};

const lineOf = (execution: ExecutionRow, stream: Stream, row: OutputRow): LogLine => {
  const where = {
    execution_id: execution.id,
    node: execution.node_name,
    attempt: execution.attempt,
    stream,
    offset: row.start,
  };
  if (!row.bytes) return { type: 'gap', ...where, gap: row.length, reason: row.gap_reason ?? '' };
  const text = !escapesOften(row.bytes) && isUtf8(row.bytes);
  return {
    type: 'chunk',
    ...where,
    data: row.bytes.toString(text ? 'utf8' : 'base64'),
    encoding: text ? 'utf8' : 'base64',
  };
};

const SAMPLES = 4096;
const DENSE = 1 / 15;
const [SPACE, TAB, LINE_FEED, RETURN] = [0x20, 0x09, 0x0a, 0x0d];

/** Whether so many bytes are control characters, which JSON writes with six, that base64 is shorter. Long ones by sample: being
 *  wrong costs bytes on the wire and nothing else. */
const escapesOften = (bytes: Buffer): boolean => {
  const step = Math.floor(bytes.length / SAMPLES) | 1; // odd: records tend to have even lengths
  let escaped = 0;
  let seen = 0;
  for (let at = 0; at < bytes.length; at += step) {
    const byte = bytes[at] ?? SPACE;
    if (byte < SPACE && byte !== LINE_FEED && byte !== TAB && byte !== RETURN) escaped++;
    seen++;
  }
  return escaped > seen * DENSE;
};
