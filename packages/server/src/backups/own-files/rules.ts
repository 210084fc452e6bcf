import { realpath } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { BackupSpec } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';

/** backups/own-files: backups of the control server's own files (execution_mode 'server'). Whoever may write configurations must not be able to
 *  read the server through them: what may be read, and written to, stands in the server's own settings and is nothing by default; no command
 *  runs; and the server's data directory, with its keys, is left out unless the settings name it, or something in it. */

export interface OwnFilesSettings {
  /** Absolute paths below which sources may lie. */
  sources: readonly string[];
  /** Absolute paths below which `file` destinations may lie. */
  destinations: readonly string[];
  dataDir: string;
}

export const ownFileRules = ({ sources, destinations, dataDir }: OwnFilesSettings) => {
  const allowed = (path: string, roots: readonly string[]): boolean => roots.some((root) => isBelow(path, root));
  /** The settings have to name it, or something in it, themselves: what lies above it gives no leave. */
  const isOpen = sources.some((root) => isBelow(root, dataDir));
  const isOurs = (path: string, ours: string): boolean => !isOpen && isBelow(path, ours);
  const refuseOurs = (source: string): never => {
    throw bad(
      `sources: ${source} lies in the server's data directory, which holds its keys. Its settings (backups.server_sources) do not name that directory.`,
    );
  };
  return {
    /** @throws AegisError backups.bad_config */
    check: (spec: BackupSpec): void => {
      if (spec.execution_mode !== 'server') return;
      const source = spec.sources.find((path) => !allowed(path, sources));
      if (source !== undefined)
        throw bad(
          `sources: the server may not back up ${source}. ${
            sources.length === 0
              ? 'It backs up none of its own files: name them in its settings (backups.server_sources).'
              : `Its settings (backups.server_sources) allow ${sources.join(', ')}.`
          }`,
        );
      const ours = spec.sources.find((path) => isOurs(path, dataDir));
      if (ours !== undefined) refuseOurs(ours);
      const { destination, hooks, exclude, bandwidth } = spec;
      if (destination.kind === 'file' && !allowed(destination.path, destinations))
        throw bad(
          `destination: the server may not write to ${destination.path}. Use an S3 bucket, or name the folder in its settings (backups.server_destinations).`,
        );
      if (hooks.before.length + hooks.after.length + hooks.on_failure.length > 0)
        throw bad('hooks: a configuration runs no commands on the server. Leave them out.');
      if (exclude.files.length + exclude.ifiles.length > 0)
        throw bad('exclude: files of patterns are not read on the server. Put the patterns into the configuration.');
      if (bandwidth.upload !== undefined || bandwidth.windows.length > 0)
        throw bad("bandwidth: it is not limited where execution_mode is 'server'. Leave it out.");
    },
    /** As things lie on the disk now, where links may lead elsewhere. @throws AegisError backups.bad_config */
    checkReal: async (spec: BackupSpec): Promise<void> => {
      const roots = (await Promise.all(sources.map(realOrNull))).filter((root) => root !== null);
      const ours = (await realOrNull(dataDir)) ?? dataDir;
      for (const source of spec.sources) {
        const real = await realOrNull(source);
        if (real !== null && isOurs(real, ours)) refuseOurs(source);
        if (real !== null && !allowed(real, roots))
          throw bad(`sources: ${source} leads to ${real}, which the server may not back up (backups.server_sources).`);
      }
    },
    /** Patterns that leave the data directory out of the sources above it. */
    leftOut: async (spec: BackupSpec): Promise<string[]> => {
      if (isOpen) return [];
      const real = (await realOrNull(dataDir)) ?? dataDir;
      const patterns = new Set<string>();
      for (const source of spec.sources) {
        const below = relative((await realOrNull(source)) ?? source, real);
        if (below !== '' && below !== '..' && !below.startsWith('../')) patterns.add(escaped(join(source, below)));
      }
      return [...patterns];
    },
  };
};
export type OwnFileRules = ReturnType<typeof ownFileRules>;

const isBelow = (path: string, root: string): boolean => {
  const inner = path.split('/').filter((part) => part !== '');
  return root
    .split('/')
    .filter((part) => part !== '')
    .every((part, at) => inner[at] === part);
};
const realOrNull = async (path: string): Promise<string | null> => {
  try {
    return await realpath(path);
  } catch {
    return null; // not there: the archive's own errors say so
  }
};
/** As a pattern that means this very path. */
const escaped = (path: string): string => path.replace(/[\\*?[\]]/g, '\\$&');
const bad = (sentence: string): AegisError => new AegisError('backups.bad_config', sentence);
