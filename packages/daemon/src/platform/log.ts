import { type DestinationStream, type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** Logs go to stderr, synchronously: a line that was written survives `kill -9`, and journald stamps it. */
export const createLog = (
  { level, format }: { level: string; format: 'json' | 'pretty' },
  write: (line: string) => void,
): Logger => {
  const destination: DestinationStream = { write: format === 'json' ? write : (line) => write(prettyLine(line)) };
  return pino(
    {
      level,
      base: { part: 'daemon' },
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination,
  );
};

export const silentLog = (): Logger => pino({ level: 'silent' });

const LOUD: readonly string[] = ['error', 'fatal'];

const prettyLine = (line: string): string => {
  const { level, time, msg, err, part: _, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const word = String(level);
  const fields = Object.entries(rest).map(
    ([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const cause = typeof err === 'object' && err !== null && 'message' in err ? ` (${String(err.message)})` : '';
  return `${String(time).slice(11, 23)} ${(LOUD.includes(word) ? word.toUpperCase() : word).padEnd(5)} ${String(msg)}${cause}${fields.join('')}\n`;
};
