import type { LogLine } from '@aegis/protocol/commands/endpoints';

/** One line of a log: a chunk's data as the bytes that they are. */

export type LogChunk = Omit<Extract<LogLine, { type: 'chunk' }>, 'data' | 'encoding'> & { bytes: Buffer };
export type ParsedLine = LogChunk | Exclude<LogLine, { type: 'chunk' }>;

const DATA = '"data":"';
const QUOTE = 0x22;
/** Below this JSON.parse is as fast. */
const LARGE = 4096;

/** A large base64 chunk does not pass through JSON.parse, which needs longer for it than everything else together: its data is cut out
 *  between its quotes (`"data":"` cannot stand inside a JSON string, where quotes are escaped; base64 has none) and decoded by itself.
 *  @throws SyntaxError */
export const parseLogLine = (line: Buffer): ParsedLine => {
  const start = line.length > LARGE ? line.indexOf(DATA) : -1;
  const end = start === -1 ? -1 : line.indexOf(QUOTE, start + DATA.length);
  if (end !== -1 && line.includes('"base64"', end)) {
    const rest = line.toString('utf8', 0, start + DATA.length) + line.toString('utf8', end);
    const parsed = JSON.parse(rest) as LogLine;
    if (parsed.type === 'chunk' && parsed.encoding === 'base64')
      return chunkOf(parsed, Buffer.from(line.toString('latin1', start + DATA.length, end), 'base64'));
  }
  const parsed = JSON.parse(line.toString('utf8')) as LogLine;
  return parsed.type === 'chunk' ? chunkOf(parsed, Buffer.from(parsed.data, parsed.encoding)) : parsed;
};

const chunkOf = (
  { data: _data, encoding: _encoding, ...chunk }: Extract<LogLine, { type: 'chunk' }>,
  bytes: Buffer,
): LogChunk => ({ ...chunk, bytes });
