import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { parse as parseToml } from 'smol-toml';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import { errnoOf } from '../platform/process.ts';
import { NO_POLICY, type Policy, readPolicy } from './policy.ts';

/** policy.toml: read when the daemon starts and whenever it has changed, before the next directive is judged. Absent at the start means: obey
 *  the server. There and not right means: do not start; and while running: keep the last good one, and say so. */

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
const MAX_BYTES = 256 * 1024;
const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

export interface PolicyFile {
  policy: Policy;
  sha256: string;
}

/** Null when there is none. @param daemonUid whose file it may be beside root's. @throws AegisError config.invalid */
export const readPolicyFile = (path: string, daemonUid = process.geteuid?.()): PolicyFile | null => {
  const wrong = (why: string): AegisError =>
    new AegisError('config.invalid', `The policy ${path} cannot be believed: ${why}.`);
  let fd: number;
  try {
    fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return null;
    if (errno === 'ELOOP') throw wrong('it is a symbolic link; put the file itself there');
    throw wrong(`it cannot be opened (${errno})`);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw wrong('it is not a file');
    if (stat.size > MAX_BYTES) throw wrong(`it is larger than ${MAX_BYTES / 1024} KiB`);
    refuseLoose(path, stat, wrong, { daemonUid, excused: 0 });
    refuseLoose(dirname(path), statSync(dirname(path)), wrong, { daemonUid, excused: STICKY });
    const text = readFileSync(fd, 'utf8');
    let value: unknown;
    try {
      value = parseToml(text);
    } catch (cause) {
      throw wrong(`it is not TOML (${cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : ''})`);
    }
    return { policy: readPolicy(value, path), sha256: createHash('sha256').update(text).digest('hex') };
  } finally {
    closeSync(fd);
  }
};

const refuseLoose = (
  path: string,
  { mode, uid }: { mode: number; uid: number },
  wrong: (why: string) => AegisError,
  { daemonUid, excused }: { daemonUid: number | undefined; excused: number },
): void => {
  if ((mode & WRITABLE_BY_OTHERS) !== 0 && (mode & excused) === 0)
    throw wrong(`others could write ${path} (mode ${(mode & 0o7777).toString(8)}): run 'chmod go-w ${path}'`);
  if (uid !== 0 && uid !== daemonUid) throw wrong(`${path} belongs to uid ${uid}: run 'chown root ${path}'`);
};

export interface PolicyStatus {
  /** Null: there is no file, the server is obeyed. */
  file: string | null;
  sha256: string | null;
  obey: Policy['obey'];
  read_at: string;
  /** Why the file as it is now is not in force: an older one is. */
  error: string | null;
}

export interface PolicyKeeper {
  /** In force now: the file's, or the last good one of it. */
  current(): Policy;
  status(): PolicyStatus;
}

/** @throws AegisError config.invalid when the file is there and not right */
export const policyKeeper = ({ path, clock, log }: { path: string; clock: Clock; log: Logger }): PolicyKeeper => {
  let mark = markOf(path);
  let held = readPolicyFile(path);
  let readAt = clock.now();
  let error: string | null = null;

  const look = (): void => {
    const now = markOf(path);
    if (now === mark) return;
    mark = now;
    try {
      const next = readPolicyFile(path);
      if (next === null && held !== null) {
        // Its absence is what an `rm` on the way to a new one looks like too: nobody is to be obeyed in between who was not before.
        error = `The policy ${path} is gone: the last one stays in force until it is back or the daemon is started anew.`;
        log.error({ policy: path }, error);
        return;
      }
      if (next?.sha256 !== held?.sha256) log.info({ policy: path, sha256: next?.sha256 }, 'a new policy is in force');
      held = next;
      readAt = clock.now();
      error = null;
    } catch (cause) {
      error = `${cause instanceof Error ? cause.message : String(cause)} The last good one stays in force.`;
      log.error({ policy: path, err: cause }, 'the policy is not right: the last good one stays in force');
    }
  };

  return {
    current: () => {
      look();
      return held?.policy ?? NO_POLICY;
    },
    status: () => {
      look();
      return {
        file: held === null ? null : path,
        sha256: held?.sha256 ?? null,
        obey: (held?.policy ?? NO_POLICY).obey,
        read_at: isoTime(readAt),
        error,
      };
    },
  };
};

/** Changes with the file: its content, its mode and its owner, and the folder's. */
const markOf = (path: string): string => {
  const part = (one: string): string => {
    const stat = lstatSync(one, { bigint: true, throwIfNoEntry: false });
    return stat ? `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}` : '';
  };
  try {
    return part(path);
  } catch (error) {
    return `! ${errnoOf(error)}`; // told apart by reading it
  }
};
