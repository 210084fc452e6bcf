import { AegisError } from '@aegis/protocol/errors';

/** Which errors of better-sqlite3 and pg mean "not now" instead of "never", and the sentence for each. */

const SENTENCES: readonly (readonly [RegExp, string])[] = [
  [
    /^(SQLITE_FULL|53100|ENOSPC|EDQUOT)$/,
    "The server's disk is full: nothing was stored. Free some space on it; then send the request again.",
  ],
  [
    /^(SQLITE_IOERR.*|SQLITE_CANTOPEN.*|58030)$/,
    "The server's disk failed to store this: nothing was stored. See the server's log; then send the request again.",
  ],
  [
    /^SQLITE_READONLY.*$/,
    "The server's database is read-only: nothing was stored. Check the owner and mode of the data directory.",
  ],
  [
    /^(SQLITE_BUSY.*|SQLITE_LOCKED.*|40001|40P01|55P03|57014)$/,
    "The server's database was busy: nothing was stored. Send the request again.",
  ],
  [
    /^(08...|57P0.|53...|25P0[1-4]|E[A-Z]+)$/,
    'The server cannot reach its database at the moment. Send the request again in a few seconds.',
  ],
];
const BROKEN =
  /connection (terminated|ended)|client was closed|timeout exceeded when trying to connect|not queryable|discarded|connection error/i;

/** An AegisError http.unavailable (503) for what may work later, http.malformed for text that no database stores;
 *  any other error comes back as it is. */
export const asUnavailable = (error: unknown): unknown => {
  if (error instanceof AegisError || !(error instanceof Error)) return error;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  if (code === '22021') return nulInText(error);
  const sentence =
    SENTENCES.find(([pattern]) => code !== '' && pattern.test(code))?.[1] ??
    (BROKEN.test(error.message) ? SENTENCES.at(-1)?.[1] : undefined);
  return sentence ? new AegisError('http.unavailable', sentence, { cause: error, retryAfterSec: 2 }) : error;
};

/** PostgreSQL cannot store it and SQLite stores it half-heartedly: refused alike on both. */
export const nulInText = (cause?: unknown): AegisError =>
  new AegisError('http.malformed', 'Text may not contain the character U+0000. Remove it.', { cause });
