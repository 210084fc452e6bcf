/** native/execution-folder: the daemon's side of the folder that it shares with aegis-exec (docs/execution.md).
 *  Makes folders, reads claims, status and segments, and gives executions up. All calls are synchronous and short.
 *  Invariant: whoever makes `claim` decides, so nothing here starts a command or trusts a pid.
 *  Must not: interpret output, wait, or keep state between calls. */
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open, unlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { loadAddon } from './binaries.ts';
import type { Claim, ExecutionStatus } from './execution-records.ts';
import { parseClaim, parseStatus } from './execution-records.ts';
import type { ExecutionSpec } from './execution-spec.ts';
import { encodeSpec } from './execution-spec.ts';

export type { Claim, ExecutionStatus, ExecutionUsage, StreamDigest } from './execution-records.ts';
export type { ExecutionSpec } from './execution-spec.ts';

export type StreamName = 'stdout' | 'stderr';

/** One spool file. `complete` means that no byte will be added to it: a later segment or the status exists.
 *  Only a complete segment, or one of exactly `segmentBytes`, may be unlinked. */
export type Segment = { path: string; offset: number; bytes: number; complete: boolean };

const EXECUTION_ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
const SMALL_FILE_LIMIT = 8192;
const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = constants;

const errorCode = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** Makes `<root>/<id>` ready for the launcher and returns its path. Safe to call again for the same id: files appear by
 *  rename, so a supervisor never sees half of one, and a folder that is already claimed is left exactly as it is.
 *  `spare`: a folder that `retireExecutionFolder` left, on the same file system; it is used up, also when this throws. */
export const createExecutionFolder = (
  root: string,
  id: string,
  spec: ExecutionSpec,
  stdin?: Uint8Array,
  spare?: string,
): string => {
  if (!EXECUTION_ID.test(id))
    throw new Error(`'${id}' cannot name an execution: use letters, digits, '-' and '_', at most 64.`);
  const record = encodeSpec(spec, stdin !== undefined);
  const dir = join(root, id);
  if (spare !== undefined && refill(spare, dir, record, stdin)) return dir;
  try {
    mkdirSync(dir, { mode: 0o700 });
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    if (!lstatSync(dir).isDirectory()) throw new Error(`${dir} exists and is not a folder; remove it.`);
    if (existsSync(join(dir, 'claim'))) return dir;
  }
  chmodSync(dir, 0o700); // whatever the umask or an earlier crash left
  if (stdin) replaceFile(dir, 'stdin', stdin);
  replaceFile(dir, 'spec', record);
  return dir;
};

/** The old claim goes when the new spec is whole, so that no supervisor of the folder's last execution, however late, can take half of it.
 *  False, with the spare removed, when the folder is there already. */
const refill = (spare: string, dir: string, record: Uint8Array, stdin: Uint8Array | undefined): boolean => {
  try {
    if (stdin) replaceFile(spare, 'stdin', stdin);
    const fd = openSync(join(spare, 'spec'), O_WRONLY | O_NOFOLLOW); // empty since it was retired
    try {
      writeFileSync(fd, record);
    } finally {
      closeSync(fd);
    }
    renameSync(join(spare, 'status'), join(spare, 'status.tmp'));
    unlinkSync(join(spare, 'claim'));
    renameSync(spare, dir);
    return true;
  } catch (error) {
    removeExecutionFolder(spare);
    if (errorCode(error) === 'ENOTEMPTY' || errorCode(error) === 'EEXIST') return false;
    throw error;
  }
};

/** Files that serve the next execution too. */
const KEPT = new Set(['claim', 'claim.tmp', 'control', 'lock', 'spec', 'status']);
const MAX_RETIRED_FILES = 16;

/** Makes the folder of an execution that is over and reported into a spare one at `spare`: making and removing files is the
 *  greater part of what an execution costs a file system. False when it has to be removed instead. What the command was told
 *  and wrote is gone afterwards, durably where the next execution could be taken for its author. */
export const retireExecutionFolder = async (dir: string, spare: string): Promise<boolean> => {
  const names = readdirSync(dir);
  const others = names.filter((name) => !KEPT.has(name));
  if (names.length - others.length < KEPT.size || others.length > MAX_RETIRED_FILES || supervisorAlive(dir))
    return false;
  closeSync(openSync(join(dir, 'spec'), O_WRONLY | O_TRUNC | O_NOFOLLOW));
  if (others.length > 0) {
    for (const name of others) await unlink(join(dir, name));
    await using folder = await open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    await folder.sync();
  }
  renameSync(dir, spare);
  return true;
};

const replaceFile = (dir: string, name: string, bytes: Uint8Array): void => {
  const temporary = join(dir, `${name}.tmp`);
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, join(dir, name));
};

/** Who decided about this execution, or null when nobody has. `damaged` (a crash of the machine while it was written)
 *  counts as claimed in an earlier boot. */
export const readClaim = (dir: string): Claim | null => {
  const text = readSmallFile(join(dir, 'claim'));
  return text === null ? null : parseClaim(text);
};

/** Gives the execution up for good. True: it is void and durable, no command will ever start. False: someone claimed first. */
export const voidClaim = (dir: string): boolean => {
  const temporary = join(dir, `claim.${randomBytes(6).toString('hex')}.tmp`);
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, '{"void":true}\n');
    fsyncSync(fd);
    linkSync(temporary, join(dir, 'claim'));
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    if (readClaim(dir)?.kind !== 'void') return false; // else ours of before a crash, perhaps not durable yet
  } finally {
    closeSync(fd);
    unlinkSync(temporary);
  }
  syncFolder(dir);
  return true;
};

/** The end of the execution, strictly checked; null while there is none. Throws when the file is not what aegis-exec writes, or tells of
 *  another execution: a power cut may bring back what the folder held before. */
export const readStatus = (dir: string): ExecutionStatus | null => {
  const text = readSmallFile(join(dir, 'status'));
  return text === null ? null : parseStatus(text, basename(dir));
};

/** Whether a supervisor holds the folder now. By its lock, never by a pid. */
export const supervisorAlive = (dir: string): boolean => loadAddon().lockHeld(join(dir, 'lock'));

/** Asks the supervisor to end the command. False when none listens (not started yet, or gone): then look at claim and status. */
export const cancelExecution = (dir: string): boolean => {
  let fd: number;
  try {
    fd = openSync(join(dir, 'control'), O_WRONLY | O_NONBLOCK | O_NOFOLLOW);
  } catch (error) {
    if (errorCode(error) === 'ENXIO' || errorCode(error) === 'ENOENT') return false;
    throw error;
  }
  try {
    if (!fstatSync(fd).isFIFO()) return false;
    writeSync(fd, 'c');
    return true;
  } catch (error) {
    if (errorCode(error) === 'EAGAIN') return true; // full of cancels already
    if (errorCode(error) === 'EPIPE') return false;
    throw error;
  } finally {
    closeSync(fd);
  }
};

/** The segments of one stream now on disk, by offset. */
export const listSegments = (dir: string, stream: StreamName): Segment[] => {
  const ended = existsSync(join(dir, 'status')); // before the listing: later would call a segment complete that still grew
  const prefix = `${stream}.`;
  const names = readdirSync(dir).filter(
    (name) => name.startsWith(prefix) && /^\d{20}$/.test(name.slice(prefix.length)),
  );
  names.sort();
  const segments: Segment[] = [];
  for (const [index, name] of names.entries()) {
    const path = join(dir, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile()) continue;
    segments.push({
      path,
      offset: Number(name.slice(prefix.length)),
      bytes: stat.size,
      complete: ended || index < names.length - 1,
    });
  }
  return segments;
};

/** Removes the folder and all in it. Only after its status was journalled or its claim voided: a supervisor that still
 *  works in a removed folder ends its command. */
export const removeExecutionFolder = (dir: string): void => rmSync(dir, { recursive: true, force: true });

const readSmallFile = (path: string): string | null => {
  let fd: number;
  try {
    fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > SMALL_FILE_LIMIT) throw new Error(`${path} is not a file that aegis wrote.`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
};

const syncFolder = (dir: string): void => {
  const fd = openSync(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
};
