import { isoTime } from '../platform/clock.ts';
import type { EventRow } from './tables.ts';

/** Events as text, for either kind of stream. */

export interface LineFormat {
  contentType: string;
  /** Before anything else. */
  begin: string;
  event(row: EventRow): string;
  /** @param id where to go on after it */
  other(id: number, line: Readonly<Record<string, unknown>>): string;
  /** A sign of life; with `id` also where to go on. */
  alive(id: number | null): string;
  /** The stream ends and may be taken up again at once. */
  again: string;
}

/** A reader that lost its stream comes back after so long. */
const RETRY_MS = 1000;

/** `data` is a JSON object as it was stored: made one with what stands before it, without reading it. */
const jsonOf = ({ id, at, type, node_uid, node_name, data }: EventRow): string => {
  const head = JSON.stringify({ id: String(id), at: isoTime(at), type, node_uid, node: node_name });
  return data === '{}' ? head : `${head.slice(0, -1)},${data.slice(1)}`;
};

export const NDJSON: LineFormat = {
  contentType: 'application/x-ndjson',
  begin: '\n',
  event: (row) => `${jsonOf(row)}\n`,
  other: (id, line) => `${JSON.stringify({ ...line, id: String(id) })}\n`,
  alive: (id) => (id === null ? '\n' : `${JSON.stringify({ type: 'position', id: String(id) })}\n`),
  again: '',
};

export const SERVER_SENT: LineFormat = {
  contentType: 'text/event-stream',
  begin: `retry: ${RETRY_MS}\n:\n\n`,
  event: (row) => `id: ${row.id}\ndata: ${jsonOf(row)}\n\n`,
  other: (id, line) => `id: ${id}\ndata: ${JSON.stringify({ ...line, id: String(id) })}\n\n`,
  // A block without data tells nobody anything, and its id is remembered all the same.
  alive: (id) => (id === null ? ':\n\n' : `:\nid: ${id}\n\n`),
  again: `retry: ${RETRY_MS}\n\n`,
};
