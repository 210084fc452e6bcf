import { chmodSync, closeSync, constants, lstatSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import Database from 'better-sqlite3';

/** One server per data directory, or several that are all of one database elsewhere (`shared`). The lock is SQLite's own on a file of its own: it ends with the process however that dies,
 *  which a file with a pid in it does not.
 *  @throws AegisError config.invalid when another server has it, or it cannot be had */
export const lockDataDir = (dataDir: string, shared = false): Disposable => {
  const path = join(dataDir, 'server.lock');
  let database: Database.Database | undefined;
  try {
    createPrivately(path);
    database = new Database(path, { timeout: 0 });
    database.pragma('journal_mode = DELETE');
    if (shared) {
      database.exec('begin');
      database.prepare('select count(*) from sqlite_schema').get(); // takes the shared lock, and keeps it while the transaction lasts
    } else {
      database.exec('begin exclusive');
    }
  } catch (cause) {
    database?.close();
    throw new AegisError('config.invalid', sentenceFor(cause, dataDir, path), { cause });
  }
  const locked = database;
  return { [Symbol.dispose]: () => locked.close() };
};

/** Whoever may open it may lock it, and so keep the server from starting. One that is there is not opened here: to close it
 *  would end the lock that this process may have on it. */
const createPrivately = (path: string): void => {
  const known = lstatSync(path, { throwIfNoEntry: false });
  if (!known) closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600));
  else if (!known.isFile()) throw new NotAFile();
  else if ((known.mode & 0o777) !== 0o600) chmodSync(path, 0o600);
};
class NotAFile extends Error {
  readonly code = 'no plain file';
}

const sentenceFor = (cause: unknown, dataDir: string, path: string): string => {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown error';
  return code.startsWith('SQLITE_BUSY')
    ? `Another server runs on ${dataDir}. Stop it first, or give this one another --data-dir. (Several may share it when all of them have database_url.)`
    : `${path} cannot be locked (${code}). See that it is a plain file of the server's user and that its disk has room.`;
};
