import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** Logs go to stderr, synchronously: a line that was written survives `kill -9`, and journald stamps it. */
export const createLog = (
  { level, format }: { level: string; format: 'json' | 'pretty' },
  write: (line: string) => void,
): Logger => {
  const destination: DestinationStream = { write: format === 'json' ? write : (line) => write(prettyLine(line)) };
  return pino({ level, base: {}, timestamp: pino.stdTimeFunctions.isoTime }, destination);
};

export const silentLog = (): Logger => pino({ level: 'silent' });

const LEVELS: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'ERROR',
  60: 'FATAL',
};

const prettyLine = (line: string): string => {
  const { level, time, msg, err, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const fields = Object.entries(rest).map(
    ([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const cause = typeof err === 'object' && err !== null && 'message' in err ? ` (${String(err.message)})` : '';
  return `${String(time).slice(11, 23)} ${(LEVELS[Number(level)] ?? '').padEnd(5)} ${String(msg)}${cause}${fields.join('')}\n`;
};
