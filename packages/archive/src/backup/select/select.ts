import type { Excludes } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import { MAX_FILE_BYTES, parseExcludeFile } from './exclude-files.ts';
import { markersOf } from './markers.ts';
import { componentsOf, type Pattern, parsePattern, patternList } from './pattern.ts';
import { lowerCase } from './runes.ts';
import type { Selection } from './selection.ts';

/** A configuration's excludes, ready to be asked. */

export interface SelectOptions {
  excludes: Excludes;
  /** Absolute. What lies below several of them counts as below the nearest. */
  sources: readonly Buffer[];
  /** A whole exclude file, by its absolute path. */
  readFile(path: string): Promise<Buffer>;
  /** For `$NAME` in exclude files. */
  env: Readonly<Record<string, string | undefined>>;
}

/** Differs from restic 0.14 in one thing: a source itself is never excluded, nor is what lies below it by a pattern that only fits the source's own path.
 *  @throws AegisError backups.bad_config naming the pattern or the exclude file; nothing that a variable held is shown */
export const selectionOf = async (options: SelectOptions): Promise<Selection> => {
  const { excludes } = options;
  const exact = [...listed(excludes.patterns, asIs), ...(await fromFiles(excludes.files, options, asIs))];
  const folded = [...listed(excludes.ipatterns, lowerCase), ...(await fromFiles(excludes.ifiles, options, lowerCase))];
  const excludedExactly = patternList(exact);
  const excludedFolded = patternList(folded);
  const pathOf = pathReader(options.sources);
  const { larger_than: largerThan, one_file_system: oneFileSystem } = excludes;
  return {
    includesPath: (bytes) => {
      if (exact.length === 0 && folded.length === 0) return true;
      const { components, floor } = pathOf(bytes);
      if (exact.length > 0 && excludedExactly(components, floor)) return false;
      return folded.length === 0 || !excludedFolded(components.map(lowerCase), floor);
    },
    includes: ({ kind, size, device }, within) => {
      if (largerThan !== undefined && kind !== 'directory' && size > largerThan) return false;
      if (!oneFileSystem || device === within.sourceDevice) return true;
      // A mount point stays, as an empty directory.
      return kind === 'directory' && within.device === within.sourceDevice;
    },
    members: markersOf(excludes),
  };
};

const asIs = (text: string): string => text;

const listed = (texts: readonly string[], fold: (text: string) => string): Pattern[] =>
  texts.flatMap((text) => parsed(Buffer.from(text, 'utf8').toString('latin1'), fold, `The exclude pattern '${text}'`));

const fromFiles = async (
  paths: readonly string[],
  { readFile, env }: SelectOptions,
  fold: (text: string) => string,
): Promise<Pattern[]> => {
  const patterns: Pattern[] = [];
  for (const path of paths) {
    const bytes = await readFile(path).catch((cause: unknown) => {
      throw badExclude(
        `The exclude file '${path}' cannot be read: make it readable, or take it out of the configuration.`,
        cause,
      );
    });
    const lines = bytes.length <= MAX_FILE_BYTES ? parseExcludeFile(bytes, env) : null;
    if (!lines) throw badExclude(`The exclude file '${path}' is too long, or a line of it.`);
    for (const { line, text } of lines)
      patterns.push(...parsed(text, fold, `The pattern in line ${line} of the exclude file '${path}'`));
  }
  return patterns;
};

const parsed = (text: string, fold: (text: string) => string, what: string): Pattern[] => {
  // As written, too: lower case makes a valid character of an invalid byte, and restic looks before that.
  const pattern = parsePattern(text) && parsePattern(fold(text));
  if (pattern === null)
    throw badExclude(`${what} is malformed: close its brackets, and put \\ before a [ or \\ that is meant as such.`);
  return pattern === 'empty' ? [] : [pattern];
};

/** Paths come directory by directory: what is known of a directory is kept until another one comes. */
const pathReader = (sources: readonly Buffer[]): ((path: Buffer) => { components: string[]; floor: number }) => {
  const roots = sources.map((source) => {
    const parts = source.toString('latin1').split('/');
    return parts.flatMap((part) => (part === '' || part === '.' ? [] : [`/${part}`])).join('');
  });
  let directory: string | null = null;
  let components: string[] = [];
  let floor = 0;
  return (path) => {
    const text = path.toString('latin1');
    const slash = text.lastIndexOf('/');
    const parent = text.slice(0, slash);
    if (parent !== directory) {
      directory = parent;
      components = componentsOf(parent);
      const above = roots.filter((root) => parent === root || parent.startsWith(`${root}/`));
      floor = Math.max(1, ...above.map((root) => componentsOf(root).length));
    }
    return { components: [...components, text.slice(slash + 1)], floor };
  };
};

const badExclude = (sentence: string, cause?: unknown): AegisError =>
  new AegisError('backups.bad_config', sentence, { cause });
