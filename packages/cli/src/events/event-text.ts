import { plainText } from '../ui/plain-text.ts';
import type { ToldLine } from './follow-events.ts';

/** An event on one line, for people: time, type, node, and the rest as `name=value`. */

const LEFT_OUT = new Set(['id', 'at', 'type', 'node', 'node_uid']);
const TYPE_WIDTH = 24;
const NODE_WIDTH = 16;

export const eventText = ({ line }: ToldLine): string => {
  const { at, type, node } = line;
  const rest = Object.entries(line).flatMap(([name, value]) =>
    LEFT_OUT.has(name) || value === null || value === false ? [] : [`${name}=${valueText(value)}`],
  );
  const head = [textOf(at), type.padEnd(TYPE_WIDTH), (textOf(node) || '-').padEnd(NODE_WIDTH)];
  return `${plainText([...head, ...rest].join(' ').trimEnd())}\n`;
};

export const gapText = ({ line: { from, id, reason } }: ToldLine): string =>
  plainText(
    reason === 'unknown_id'
      ? `gap: the server knows no event ${textOf(from)}; it was restored from a backup, or the id is another fleet's. What happened meanwhile is not told.`
      : `gap: events after ${textOf(from)} up to ${id} are not kept any more.`,
  );

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');
const valueText = (value: unknown): string => {
  if (typeof value === 'object' && value !== null && 'message' in value) return JSON.stringify(String(value.message));
  if (typeof value === 'string') return /[\s"]/.test(value) ? JSON.stringify(value) : value;
  return JSON.stringify(value);
};
