import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import type { Excludes } from '@aegis/protocol/backups/config';
import type { Chance } from './mutants.ts';

/** Trees and excludes without end, the same ones for the same seed. Text is a char a byte. */

const utf8 = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');
const NAMES = [
  'a',
  'b',
  'foo',
  'Foo',
  'FOO.TXT',
  'bar.txt',
  'x.log',
  'y.log',
  '.git',
  'node_modules',
  'cache',
  'keep',
  'keep.log',
  'deep',
  'a b',
  ' lead',
  '[x]',
  'a*b',
  'q?',
  'back\\slash',
  '$HOME',
  '#hash',
  '!bang',
  '-dash',
  'CACHEDIR.TAG',
  '.nobackup',
  'marker',
  utf8('ä'),
  utf8('Äpfel'),
  utf8('İ'),
  utf8('ΣΑΣ'),
  utf8('日本語'),
  'bad\xff',
  '\xc3',
  'x\xe2\x82',
  utf8('é'),
  utf8('e\u0301'),
];
const CACHE_TAG = 'Signature: 8a477f597d28d172789f06886806bc55\n# and more';

/** Makes a tree below `root`; every path of it, relative to `root`. */
export const makeTree = (root: string, { below, pick }: Chance): string[] => {
  const paths: string[] = [];
  const bytes = (text: string) => Buffer.from(text, 'latin1');
  const fill = (folder: string, depth: number): void => {
    const names = new Set(Array.from({ length: 3 + below(6) }, () => pick(NAMES)));
    for (const name of names) {
      const path = folder === '' ? name : `${folder}/${name}`;
      const full = bytes(`${root}/${path}`);
      paths.push(path);
      const kind = below(10);
      if (name === 'CACHEDIR.TAG') writeFileSync(full, pick([CACHE_TAG, CACHE_TAG, 'Signature: 8a47', '', 'other']));
      else if (kind === 0) symlinkSync('a', full);
      else if (kind < 5 && depth < 4) {
        mkdirSync(full);
        fill(path, depth + 1);
      } else writeFileSync(full, Buffer.alloc(pick([0, 1, 10, 1000, 1024, 1025, 5000]), 'x'));
    }
  };
  fill('', 0);
  return paths;
};

const GLOBS = [
  '*.log',
  '*.txt',
  'foo*',
  '?',
  '??',
  '[a-c]',
  '[^a-z]*',
  '[!a]',
  '*[xX]*',
  '\\[x\\]',
  'a\\*b',
  'a*b',
  '*o*',
  '.*',
  '*\xff',
  '?ad\xff',
  'ba[d-z]?',
  utf8('[ä-ö]'),
  utf8('Ä*'),
  '*\xa4',
  '?\xc3',
  '[\\]]',
  'back\\\\slash',
  'q\\?',
  '*.*',
  'k*p*',
  utf8('*语'),
  utf8('*[本-語]*'),
  '****g',
  utf8('?'),
  'f[o]?',
];

const MALFORMED = ['[a', 'a\\', '[]', 'x/[-]/y', '!a/[', '*[b-', '[\xff]'];

const patternOf = (source: string, paths: readonly string[], chance: Chance): string => {
  const { below, pick } = chance;
  if (below(60) === 0) return pick(MALFORMED);
  const component = (): string => (below(2) ? pick(NAMES).replace(/[\\[*?]/g, '\\$&') : pick(GLOBS));
  const varied = (path: string): string => {
    const parts = path.split('/').map((part) => part.replace(/[\\[*?]/g, '\\$&'));
    const at = below(parts.length);
    if (below(2)) parts[at] = pick(['*', '**', '?*', parts[at] ?? '*', `${parts[at]}*`]);
    if (below(4) === 0) parts.splice(below(parts.length), 0, '**');
    return parts.join('/');
  };
  const body = (): string => {
    switch (below(8)) {
      case 0:
      case 1:
        return component();
      case 2:
        return `${component()}/${component()}`;
      case 3:
        return `${component()}/**/${component()}`;
      case 4:
        return `${source}/${varied(pick(paths))}`;
      case 5:
        return `${source}/${pick(['**/', '*/', '**/*/', './', 'x/../', '/'])}${component()}`;
      case 6: // not from the start: below the source's own name, which no pattern shall match
        return varied(pick(paths));
      default:
        return `${pick(['**/', './', '../', 'a/../', '//'])}${component()}${pick(['', '/', '/**', '/*', '//', '/.'])}`;
    }
  };
  return `${below(5) === 0 ? '!' : ''}${body()}`;
};

export interface SelectionCase {
  excludes: Excludes;
  /** The same, for restic. */
  options: string[];
  /** Of the exclude file, where there is one. */
  file: string | null;
  env: Record<string, string>;
}

const MARKERS = [
  '.nobackup',
  'marker:xxx',
  'marker:',
  '.nobackup:x',
  'CACHEDIR.TAG',
  'keep',
  'marker:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',
];

/** Patterns of a configuration are text, those of a file any bytes: what is no UTF-8 goes into the file. */
export const caseOf = (source: string, paths: readonly string[], filePath: string, chance: Chance): SelectionCase => {
  const { below, pick } = chance;
  const patterns = (most: number) => Array.from({ length: below(most + 1) }, () => patternOf(source, paths, chance));
  const isText = (text: string) => utf8(Buffer.from(text, 'latin1').toString('utf8')) === text;
  const texts = (most: number) =>
    patterns(most)
      .filter(isText)
      .map((text) => Buffer.from(text, 'latin1').toString('utf8'));
  const env = { AEGIS_A: 'a', AEGIS_LOG: '*.log', AEGIS_EMPTY: '' };
  const lines = (most: number) =>
    patterns(most).map((text) =>
      pick([text, text, `  ${text}\t`, `\xc2\xa0${text}`, text.replaceAll('$', '$$$$'), `${text}\r`]),
    );
  const extra = [
    '# a comment',
    '',
    '   ',
    '$AEGIS_LOG',
    `$${'{AEGIS_A}'}`,
    '$AEGIS_EMPTY',
    '$$HOME',
    'x${',
    `y$${'{}z'}`,
    '$1',
    'cost$',
    '#hash',
    '\\#hash',
  ];
  const inFile = below(2) ? [...lines(4), pick(extra), ...lines(2), pick(extra)] : null;
  const folded = below(2) === 0;
  const excludes: Excludes = {
    patterns: texts(5),
    ipatterns: below(3) === 0 ? texts(3) : [],
    files: inFile && !folded ? [filePath] : [],
    ifiles: inFile && folded ? [filePath] : [],
    caches: below(3) === 0,
    if_present: below(3) === 0 ? [pick(MARKERS), ...(below(3) === 0 ? [pick(MARKERS)] : [])] : [],
    ...(below(4) === 0 ? { larger_than: pick([1, 10, 1024, 4999]) } : {}),
    one_file_system: below(4) === 0,
  };
  const options = [
    ...excludes.patterns.flatMap((text) => ['--exclude', text]),
    ...excludes.ipatterns.flatMap((text) => ['--iexclude', text]),
    ...excludes.files.flatMap((path) => ['--exclude-file', path]),
    ...excludes.ifiles.flatMap((path) => ['--iexclude-file', path]),
    ...(excludes.caches ? ['--exclude-caches'] : []),
    ...excludes.if_present.flatMap((text) => ['--exclude-if-present', text]),
    ...(excludes.larger_than === undefined ? [] : ['--exclude-larger-than', `${excludes.larger_than}b`]),
    ...(excludes.one_file_system ? ['--one-file-system'] : []),
  ];
  return { excludes, options, file: inFile ? inFile.join('\n') : null, env };
};
