import { typeMatches } from '@aegis/protocol/events/event';
import type { FewAtATime } from '../platform/few-at-a-time.ts';
import { wakeup } from '../platform/wakeup.ts';
import type { LineFormat } from './event-lines.ts';
import type { EventsRepository } from './repository.ts';
import type { EventRow } from './tables.ts';
import type { Tail } from './tail.ts';

/** One reader's stream, made as fast as it is taken: whoever is slow reads the database later and holds nobody up. */

export interface EventSelection {
  /** Groups and types; null: all. */
  types: readonly string[] | null;
  nodeUids: ReadonlySet<string> | null;
  /** The last id that the reader has; null: from now on. */
  from: number | null;
  follow: boolean;
  /** Whether this reader may be told of it; asked for each event that it wants. */
  mayTell: (row: EventRow) => boolean | Promise<boolean>;
  /** Whether there still is a reader who may be told anything; asked before each telling. */
  isGood: () => Promise<boolean>;
  format: LineFormat;
  heartbeatMs: number;
  signal: AbortSignal;
}
export interface EventSource {
  tail: Tail;
  repository: EventsRepository;
  /** Bounds what readers who are behind take of the database. */
  inTurn: FewAtATime;
}

const PAGE = 200;
const PAGE_CHARS = 256 * 1024;
const TEXT_CHARS = 32 * 1024;

/** Until `signal` is aborted, as it is when the answer is over, the tail is kept up to date for it.
 *  @throws AegisError http.unavailable at the first look, before anything is told */
export const openEvents = async (source: EventSource, on: EventSelection): Promise<AsyncGenerator<string>> => {
  const { tail, repository } = source;
  const sleeper = wakeup();
  const following = tail.follow(sleeper.wake);
  const end = (): void => {
    following[Symbol.dispose]();
    sleeper.wake();
  };
  if (on.signal.aborted) end();
  else on.signal.addEventListener('abort', end, { once: true });
  await tail.refresh();
  if (on.signal.aborted) return noTexts(on.format); // the tail is kept for nobody, and its position is none to go on from
  const now = tail.position();
  const from = on.from ?? (on.follow ? now : 0);
  const unknown = from > 0 && from !== now && from > (await repository.floor()) && !(await repository.has(from));
  return eventTexts(source, on, { now, from, unknown, sleep: sleeper.wait });
};

async function* noTexts({ begin, again }: LineFormat): AsyncGenerator<string> {
  yield begin;
  if (again !== '') yield again;
}

async function* eventTexts(
  source: EventSource,
  on: EventSelection,
  start: { now: number; from: number; unknown: boolean; sleep: (ms: number) => Promise<void> },
): AsyncGenerator<string> {
  const { format, signal } = on;
  /** For who does not follow: what came after the question is none of the answer. */
  const last = on.follow ? Number.MAX_SAFE_INTEGER : start.now;
  let cursor = start.unknown ? Math.min(start.from, start.now) : start.from;
  let told = cursor;
  let toldAt = performance.now();
  const say = (text: string): string => {
    told = cursor;
    toldAt = performance.now();
    return text;
  };

  yield format.begin;
  // Who begins now shall be able to go on from now, also when the first event is long in coming.
  if (on.follow && on.from === null) yield say(format.alive(cursor));
  if (start.unknown) yield say(format.other(cursor, { type: 'gap', from: String(start.from), reason: 'unknown_id' }));
  while (!signal.aborted) {
    const { rows, removedThrough } = await following(source, cursor, last);
    const somethingToTell = rows.length > 0 || removedThrough > cursor;
    if (somethingToTell && !(await on.isGood())) return;
    if (removedThrough > cursor) {
      const from = String(cursor);
      cursor = removedThrough;
      yield say(format.other(cursor, { type: 'gap', from, reason: 'retention' }));
      continue;
    }
    let text = '';
    for (const row of rows) {
      cursor = row.id;
      if (!isWanted(on, row) || !(await on.mayTell(row))) continue;
      text += format.event(row);
      if (text.length < TEXT_CHARS) continue;
      yield say(text);
      text = '';
      if (signal.aborted || !(await on.isGood())) return;
    }
    if (text !== '') yield say(text);
    const silentMs = performance.now() - toldAt;
    if (silentMs >= on.heartbeatMs) {
      if (!(await on.isGood())) return;
      yield say(format.alive(cursor === told ? null : cursor));
    } else if (rows.length === 0) {
      if (!on.follow) return yield format.other(cursor, { type: 'end' });
      await start.sleep(on.heartbeatMs - silentMs);
    }
  }
  if (format.again !== '') yield format.again;
}

const isWanted = ({ types, nodeUids }: EventSelection, row: EventRow): boolean =>
  (types === null || types.some((wanted) => typeMatches(row.type, wanted))) &&
  (nodeUids === null || (row.node_uid !== null && nodeUids.has(row.node_uid)));

/** What comes after `cursor`, a part of it; and, where it is read from the database, up to where events were removed. */
const following = async (
  { tail, repository, inTurn }: EventSource,
  cursor: number,
  last: number,
): Promise<{ rows: readonly EventRow[]; removedThrough: number }> => {
  const kept = tail.since(cursor);
  if (kept)
    return { rows: (kept.at(-1)?.id ?? 0) > last ? kept.filter(({ id }) => id <= last) : kept, removedThrough: 0 };
  const upTo = Math.min(last, tail.position());
  const page = await inTurn(() => repository.page(cursor, upTo, PAGE));
  return { ...page, rows: withinSize(page.rows) };
};

const withinSize = (rows: readonly EventRow[]): readonly EventRow[] => {
  let chars = 0;
  const beyond = rows.findIndex(({ data }) => {
    chars += data.length;
    return chars > PAGE_CHARS;
  });
  return beyond < 0 ? rows : rows.slice(0, Math.max(1, beyond));
};
