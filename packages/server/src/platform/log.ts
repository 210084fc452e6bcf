import pino from 'pino';

/** Structured lines on standard error; standard output belongs to the ready line. Names that hold secrets are struck out
 *  wherever they appear, as a second wall behind not logging them, and so is whatever has the form of a token: callers put theirs into
 *  paths and names. */
export type Log = pino.Logger;

const SECRET = ['authorization', 'token', 'secret', 'password', 'token_mac', 'database_url', 'jwt_signing_secret'];
/** JWTs, join tokens, operators' tokens from before they were JWTs, agents' API keys. */
const TOKEN = /eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|aegis1\.[\w.-]+|aegis_[0-9a-f]{16}_[\w-]+|aegis-agent-[\w-]{16,}/g;

export const stderrLog = (
  level: string,
  format: 'json' | 'pretty',
  destination: pino.DestinationStream = format === 'pretty'
    ? prettyStderr()
    : pino.destination({ dest: 2, sync: true }),
): Log =>
  pino(
    {
      level,
      base: { part: 'server' },
      redact: { paths: SECRET.flatMap((name) => [name, `*.${name}`]), censor: '(secret)' },
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    { write: (line) => destination.write(line.replaceAll(TOKEN, '(secret)')) },
  );

export const silentLog = (): Log => pino({ level: 'silent' });

/** For people at a terminal: time, level, message, then what belongs to it. */
const prettyStderr = (): pino.DestinationStream => ({
  write: (line) => {
    const { time, level, msg, part: _, ...rest } = JSON.parse(line) as Record<string, unknown>;
    const more = Object.keys(rest).length > 0 ? ` ${JSON.stringify(rest)}` : '';
    process.stderr.write(`${String(time).slice(11, 19)} ${String(level)} ${String(msg)}${more}\n`);
  },
});
