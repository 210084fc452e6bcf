import { createHash } from 'node:crypto';
import { lstatSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { BUNDLE_LIMITS } from '@aegis/protocol/artifacts/manifest';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';

/** Files that a person names: read whole within a bound, written so that nobody meets half of one. */

export const existing = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

/** @throws AegisError `code` where it is too large, cli.usage where it cannot be read; `next` says what to do then */
export const readLocal = (
  path: string,
  next: string,
  limit: { bytes: number; code: ErrorCode } = { bytes: BUNDLE_LIMITS.packedBytes, code: 'artifacts.bundle_limit' },
): Buffer => {
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw new AegisError('cli.usage', `${path} is no file. ${next}`);
    if (stat.size > limit.bytes)
      throw new AegisError(limit.code, `${path} has ${stat.size} bytes; at most ${limit.bytes} are allowed.`);
    return readFileSync(path);
  } catch (error) {
    if (error instanceof AegisError) throw error;
    const what = reasonOf(error) === 'ENOENT' ? 'is not there' : `cannot be read (${reasonOf(error)})`;
    throw new AegisError('cli.usage', `${path} ${what}. ${next}`);
  }
};

/** Beside its place and then into it. @throws AegisError cli.usage */
export const writeLocal = (path: string, bytes: string | Uint8Array): void => {
  const beside = join(dirname(path), `.${basename(path)}.${process.pid}`);
  try {
    writeFileSync(beside, bytes, { flag: 'wx' });
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw new AegisError('cli.usage', `${path} cannot be written (${reasonOf(error)}). Choose another with -o.`);
  }
};

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
