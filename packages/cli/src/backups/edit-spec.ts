import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BackupConfig } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { plainText } from '../ui/plain-text.ts';
import type { SpecTree } from './spec-flags.ts';

/** Configurations as text: read from files, or changed in the operator's editor. */

const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

/** `-`: standard input. @throws AegisError cli.usage */
export const readSpecFile = (file: string): string => {
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new AegisError(
      'cli.usage',
      `${plainText(file)} cannot be read (${reasonOf(error)}). Name a file with a configuration.`,
    );
  }
};

/** Hands the configuration, as it was left in the editor, to `store`; null when it was not changed. What is refused stays in a file, which the
 *  error names. @throws AegisError cli.usage, backups.bad_config, and what `store` throws */
export const editSpec = async <T>(
  config: BackupConfig,
  env: Readonly<Record<string, string | undefined>>,
  store: (spec: SpecTree) => Promise<T>,
): Promise<T | null> => {
  const editor = env.VISUAL || env.EDITOR;
  if (!editor)
    throw new AegisError('cli.usage', 'There is no $EDITOR here: set it, or say what changes with flags (see --help).');
  const { specsIn, toToml } = await import('../backups/spec-file.ts');
  const folder = mkdtempSync(join(tmpdir(), 'aegis-edit-'));
  const file = join(folder, 'backup.toml');
  const text = toToml(config);
  writeFileSync(file, text, { mode: 0o600, flag: 'wx' });
  let keep = false;
  try {
    // As git does: the variable may hold options, so the shell reads it.
    const { status, error } = spawnSync('/bin/sh', ['-c', `${editor} "$1"`, editor, file], { stdio: 'inherit' });
    if (error || status !== 0)
      throw new AegisError('cli.usage', `The editor '${plainText(editor)}' failed: nothing was changed. Set $EDITOR.`);
    const after = readFileSync(file, 'utf8');
    if (after === text) return null;
    keep = true;
    const [spec, another] = specsIn(after, file);
    if (!spec || another)
      throw new AegisError('backups.bad_config', `${file} has to stay one configuration: 'edit' changes just that.`);
    const stored = await store(spec);
    keep = false;
    return stored;
  } catch (error) {
    if (!keep || !(error instanceof AegisError) || error.message.includes(file)) throw error;
    throw new AegisError(error.code, `${error.message} Your text is in ${file}.`, { details: error.details });
  } finally {
    if (!keep) rmSync(folder, { recursive: true, force: true });
  }
};
