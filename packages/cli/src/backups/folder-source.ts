import { closeSync, constants, fstatSync, openSync, read } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import { AegisError } from '@aegis/protocol/errors';

/** A run's objects in a folder: a `file` destination, a disk that was carried here, a copy that some other tool fetched. */

const reading = promisify(read);
const PIECE_BYTES = 1024 * 1024;

export interface FileSource extends ByteSource, Disposable {}

/** The first of `names` that is there. @throws AegisError backups.unknown_object */
export const fileSource = (folder: string, names: readonly string[]): FileSource => {
  const fd = openFirst(folder, names);
  const { size } = fstatSync(fd);
  return {
    size,
    async *read(start, end) {
      for (let at = start; at < end; ) {
        const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, end - at));
        const { bytesRead } = await reading(fd, buffer, 0, buffer.length, at);
        if (bytesRead === 0)
          throw new AegisError(
            'backups.bad_archive',
            `A file in ${folder} became shorter while it was read. Try again.`,
          );
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
};

const openFirst = (folder: string, names: readonly string[]): number => {
  for (const name of names) {
    try {
      const fd = openSync(join(folder, name), constants.O_RDONLY | constants.O_NONBLOCK);
      if (fstatSync(fd).isFile()) return fd;
      closeSync(fd);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? 'unknown reason';
      if (code !== 'ENOENT')
        throw new AegisError(
          'backups.unknown_object',
          `${join(folder, name)} cannot be opened (${code}). See who may read it.`,
        );
    }
  }
  throw new AegisError(
    'backups.unknown_object',
    `${folder} has no ${names.join(' or ')}: it is no folder of a run. Name the one with archive, manifest and statement.json.`,
  );
};
