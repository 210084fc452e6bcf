import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { removeExecutionFolder, retireExecutionFolder } from '@aegis/native/execution-folder';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';
import { folderRemover } from './folder-remover.ts';

/** Folders of finished executions, kept for the next ones in a folder of their own. Only what this process retired itself is used again:
 *  what another left goes at the start, because a power cut may have mixed old and new in it. */
export interface SpareFolders {
  take(): string | undefined;
  /** The server has everything in it. */
  release(dir: string): void;
}

const MAX_SPARES = 64;
/** What starts now goes first. */
const RETIRE_MS = 25;

export const spareFolders = (root: string, log: Logger): SpareFolders => {
  removeExecutionFolder(root);
  mkdirSync(root, { mode: 0o700 });
  const remove = folderRemover(log);
  const spares: string[] = [];
  let made = 0;

  const retire = async (dir: string): Promise<void> => {
    try {
      const spare = join(root, String(++made));
      if (await retireExecutionFolder(dir, spare)) {
        spares.push(spare);
        return;
      }
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      log.warn({ err: error, dir }, 'cannot keep an execution folder for the next one; it is removed');
    }
    remove(dir);
  };

  const waiting: string[] = [];
  const retireAll = (): void => {
    for (const dir of waiting.splice(0)) {
      if (spares.length < MAX_SPARES) void retire(dir);
      else remove(dir);
    }
  };

  return {
    take: () => spares.shift(),
    release: (dir) => {
      if (waiting.length === 0) setTimeout(retireAll, RETIRE_MS).unref();
      waiting.push(dir);
    },
  };
};
