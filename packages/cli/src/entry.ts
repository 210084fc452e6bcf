/** The file that `bin/aegis` starts: answers the version before anything is loaded, turns on V8's compile cache, and loads the rest.
 *  Every statement here is paid for by every command; nothing that is not small may be imported. */
import { lstatSync, writeSync } from 'node:fs';
import { createRequire, enableCompileCache } from 'node:module';
import { VERSION } from '@aegis/protocol/version';
import { makeFolders } from './folders.ts';

const [first, second] = process.argv.slice(2);
const asksVersion = first === 'version' || first === '--version' || first === '-v';

/** The folder must be ours alone: whoever can write to it could have us run other code. */
const compileCacheFolder = (): string | null => {
  const base = process.env.XDG_CACHE_HOME || (process.env.HOME && `${process.env.HOME}/.cache`);
  if (!base?.startsWith('/')) return null;
  const folder = `${base}/aegis/compile-cache`;
  try {
    if (!lstatSync(folder, { throwIfNoEntry: false })) makeFolders(base, 'aegis', 'compile-cache');
    const { uid, mode } = lstatSync(folder);
    return uid === process.getuid?.() && (mode & 0o022) === 0 ? folder : null;
  } catch {
    return null; // no cache only costs time
  }
};

if (asksVersion && (second === undefined || second === '--json')) {
  const node = process.version;
  const platform = `${process.platform}-${process.arch}`;
  const text = second
    ? JSON.stringify({ version: VERSION, platform, node })
    : `aegis/${VERSION} ${platform} node-${node}`;
  writeSync(1, `${text}\n`);
} else {
  const folder = compileCacheFolder();
  if (folder) enableCompileCache(folder);
  createRequire(__filename)('./main.cjs');
}
