import { entryText } from '@aegis/archive/backup/manifest/line-text';
import type { Backup, RestoreProgress, RestoreResult, VerifyResult } from '@aegis/archive/backup/restore/backup';
import { diff } from '@aegis/archive/backup/restore/difference';
import { AegisError } from '@aegis/protocol/errors';
import type { Output } from '../ui/output.ts';
import { differenceLine, entryLine, pathJson, pathText } from './entry-text.ts';
import type { Progress } from './progress-view.ts';

/** Looking into an opened backup: lists, contents, differences. Lines go out as they come; memory does not grow with the backup. */

interface Writing {
  output: Output;
  json: boolean;
}

/** Lines are gathered to pieces of this size. */
const PIECE_CHARS = 64 * 1024;

const lineWriter = ({ output }: Writing) => {
  let text = '';
  const flush = async (): Promise<void> => {
    const out = text;
    text = '';
    if (out !== '') await output.out(out);
  };
  return {
    line: async (line: string): Promise<void> => {
      text += `${line}\n`;
      if (text.length >= PIECE_CHARS) await flush();
    },
    flush,
  };
};

/** A path as it stands in the manifest: relative to /. */
const bare = (path: string): Buffer => Buffer.from(path.replace(/^\/+|\/+$/g, ''), 'utf8');

/** Without a path everything; of a folder what stands right in it (or, `recursive`, all below); else the one entry.
 *  @throws AegisError backups.unknown_object */
export const listEntries = async (
  backup: Backup,
  path: string | undefined,
  recursive: boolean,
  writing: Writing,
): Promise<void> => {
  const writer = lineWriter(writing);
  const wanted = path === undefined ? Buffer.alloc(0) : bare(path);
  const inside = wanted.length === 0 ? wanted : Buffer.concat([wanted, Buffer.from('/')]);
  let found = path === undefined;
  for await (const entry of backup.entries()) {
    const below = entry.path.subarray(0, inside.length).equals(inside);
    const itself = entry.path.equals(wanted);
    if (!below && !itself) continue;
    found = true;
    if (itself && entry.kind === 'directory' && path !== undefined) continue;
    if (below && path !== undefined && !recursive && entry.path.indexOf(0x2f, inside.length) !== -1) continue;
    await writer.line(writing.json ? entryText(entry) : entryLine(entry));
  }
  await writer.flush();
  if (!found) throw unknownPath(path ?? '');
};

const unknownPath = (path: string): AegisError =>
  new AegisError(
    'backups.unknown_object',
    `The backup has nothing at ${pathText(Buffer.from(path))}. 'aegis backups ls RUN' shows what it has.`,
  );

export const writeContent = async (backup: Backup, path: string, output: Output): Promise<void> => {
  for await (const piece of backup.read(bare(path))) await output.out(piece);
};

/** How many there are. */
export const writeDifferences = async (before: Backup, after: Backup, writing: Writing): Promise<number> => {
  const writer = lineWriter(writing);
  let count = 0;
  for await (const difference of diff(before, after)) {
    count++;
    const { change, path, fields } = difference;
    await writer.line(
      writing.json
        ? JSON.stringify({ type: 'difference', change, ...pathJson(path), fields })
        : differenceLine(difference),
    );
  }
  await writer.flush();
  return count;
};

export const progressOfRestore = (
  phase: string,
  { entries, archiveBytes, errors, path }: RestoreProgress,
  archiveTotal: number | null,
): Progress => ({
  phase,
  bytes: archiveBytes,
  bytesTotal: archiveTotal,
  files: entries,
  bytesPerSec: null,
  errors,
  path: pathText(path),
  reason: null,
});

export const progressJson = ({ entries, entriesTotal, bytes, archiveBytes, errors, path }: RestoreProgress) => ({
  type: 'progress',
  entries,
  entries_total: entriesTotal,
  bytes,
  archive_bytes: archiveBytes,
  errors,
  ...pathJson(path),
});

export const errorsJson = ({ errors }: Pick<RestoreResult | VerifyResult, 'errors'>) =>
  errors.map(({ path, code, message }) => ({ ...pathJson(path), code, message }));

export const errorTexts = ({ errors }: Pick<RestoreResult | VerifyResult, 'errors'>): string[] =>
  errors.map(({ path, code, message }) => `${pathText(path)}: ${message} (${code})`);
