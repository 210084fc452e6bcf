import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { makeRepository, PASSWORD, type ResticRepository } from './restic-repository.ts';

/** Debian's restic over a repository of its own, as the reference of selection and retention. */

const MOST_BYTES = 64 * 1024 * 1024;
const running = promisify(execFile);

export interface Restic {
  repository: ResticRepository;
  /** Stdout, a char a byte. */
  run(args: readonly string[], env?: Readonly<Record<string, string>>): Promise<string>;
  [Symbol.dispose](): void;
}

export const startRestic = (): Restic => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-restic-'));
  const repository = makeRepository(folder);
  const run: Restic['run'] = async (args, env = {}) => {
    const { stdout } = await running('restic', ['--no-cache', ...args], {
      env: { ...process.env, TZ: 'UTC', ...env, RESTIC_REPOSITORY: folder, RESTIC_PASSWORD: PASSWORD },
      encoding: 'latin1',
      maxBuffer: MOST_BYTES,
    });
    return stdout;
  };
  return { repository, run, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
};

/** The files (and, with a slash at the end, directories) that a backup of `source` would have, a char a byte; restic does not list what is neither. */
export const resticSelection = async (
  restic: Restic,
  source: string,
  options: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string[]> => {
  const text = await restic.run(['backup', '--dry-run', '--verbose=2', '--force', ...options, source], env);
  const items = [...text.matchAll(/^new {7}(\/.*?), saved in /gms)].map(([, item]) => item ?? '');
  return items.filter((item) => item.startsWith(`${source}/`)).sort();
};
