import { closeSync } from 'node:fs';
import type { RunObject } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import {
  destinationFailed,
  type Folder,
  keepFile,
  newFile,
  openFolder,
  removeAttempt,
  removeAttempts,
  writeFile,
} from './folder-destination.ts';
import type { Archived, RunRow } from './repository.ts';
import type { Destination } from './to-bucket.ts';

/** One attempt's way into a folder of this machine: the thread writes where the archive is to be, under temporary names, which become final
 *  when all is on disk. */

export interface FolderOptions {
  run: RunRow;
  root: string;
  /** Below it, to the attempt's own. */
  segments: readonly string[];
  names: Readonly<Record<RunObject, string>>;
  uploaded(bytes: number): void;
  faults: FaultPoints;
}

export const toFolder = ({ run, root, segments, names, uploaded, faults }: FolderOptions): Destination => {
  const above = segments.slice(0, -1);
  const own = segments.at(-1) ?? '';
  removeAttempts(root, above); // from before a restart
  const folder: Folder | null = openFolder(root, segments, { make: true });
  if (!folder) throw destinationFailed(`The destination ${root} went away`, null);
  const files = new Map<'archive' | 'manifest', number>();
  const closeAll = (): void => {
    for (const fd of files.values()) closeSync(fd);
    files.clear();
  };
  try {
    for (const object of ['archive', 'manifest'] as const) files.set(object, newFile(folder, names[object]));
  } catch (error) {
    closeAll();
    folder[Symbol.dispose]();
    throw destinationFailed(`A file cannot be made below ${root}`, error);
  }
  const keep = (object: 'archive' | 'manifest'): void => {
    const fd = files.get(object);
    if (fd === undefined) return;
    files.delete(object);
    faults.at(`daemon.before-store.backup-${object}`);
    try {
      keepFile(folder, names[object], fd);
    } catch (error) {
      throw destinationFailed(`The ${object} cannot be stored below ${root}`, error);
    }
    faults.at(`daemon.after-store.backup-${object}`);
  };
  let finished = false;
  return {
    output: { kind: 'files', archive: files.get('archive') ?? -1, manifest: files.get('manifest') ?? -1 },
    store: async (archiving) => {
      const archived: Archived = await archiving.done;
      keep('archive');
      keep('manifest');
      uploaded(archived.archive.bytes + archived.manifest.bytes);
      run.state.archived = archived;
      return archived;
    },
    resume: () =>
      Promise.reject(
        new AegisError(
          'backups.lost',
          'What was written before the restart is not taken up: the archive is made again.',
        ),
      ),
    finish: async (statement) => {
      faults.at('daemon.before-store.backup-statement');
      try {
        writeFile(folder, names.statement, statement);
      } catch (error) {
        throw destinationFailed(`The statement cannot be stored below ${root}`, error);
      }
      faults.at('daemon.after-store.backup-statement');
      finished = true;
    },
    clear: async () => {
      closeAll();
      folder[Symbol.dispose]();
      if (!finished) removeAttempt(root, above, own);
    },
  };
};
