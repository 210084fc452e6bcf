import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import Database from 'better-sqlite3';

/** One server per data directory. The lock is SQLite's own on a file of its own: it ends with the process however that dies,
 *  which a file with a pid in it does not.
 *  @throws AegisError config.invalid when another server has it */
export const lockDataDir = (dataDir: string): Disposable => {
  const database = new Database(join(dataDir, 'server.lock'), { timeout: 0 });
  try {
    database.pragma('journal_mode = DELETE');
    database.exec('begin exclusive');
  } catch (cause) {
    database.close();
    throw new AegisError(
      'config.invalid',
      `Another server runs on ${dataDir}. Stop it first, or give this one another --data-dir.`,
      { cause },
    );
  }
  return { [Symbol.dispose]: () => database.close() };
};
