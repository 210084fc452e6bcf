import { AegisError } from '@aegis/protocol/errors';
import { COMMANDS, wordsOf } from './command-table.ts';
import { plainText } from './ui/plain-text.ts';

/** What was wrong with the command line, in a sentence with a next step. */

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** oclif's guess about flags that take several values; ours take one each time. */
const LISTS_NOTE = /\n\s*Note: --[^\n]* allows? multiple values\.[\s\S]*$/;

/** oclif's parse errors carry several lines and a colour; nothing of its own is shown. */
export const usageOf = (error: unknown): AegisError | null => {
  if (!(error instanceof Error) || error instanceof AegisError || !isRecord((error as { oclif?: unknown }).oclif))
    return null;
  const sentence = plainText(
    error.message
      .replace(/\nSee more help with --help$/, '')
      .replace(LISTS_NOTE, '')
      .replaceAll('\n', ' '),
  )
    .replace(/^The following errors? occurred:/, '')
    .replace(/ {2,}/g, ' ')
    .trim();
  return new AegisError('cli.usage', `${sentence.replace(/[.:]?$/, '.')} See --help.`);
};

export const unknownCommand = (argv: readonly string[]): AegisError => {
  const words: string[] = [];
  for (const word of argv) {
    if (word.startsWith('-') || words.length === 3) break;
    words.push(word);
  }
  if (['version', '--version', '-v'].includes(argv[0] ?? ''))
    return new AegisError('cli.usage', `'aegis ${argv[0]}' takes --json and nothing else. See 'aegis --help'.`);
  if (words.length === 0)
    return new AegisError('cli.usage', `There is no option '${argv[0]}' here. See 'aegis --help'.`);
  const text = words.join(' ');
  const near = nearest(text, Object.keys(COMMANDS).map(wordsOf));
  return new AegisError(
    'cli.usage',
    `There is no command '${text}'.${near ? ` Did you mean '${near}'?` : ''} See 'aegis --help'.`,
  );
};

const nearest = (text: string, names: readonly string[]): string | null => {
  const [best] = names.map((name) => ({ name, far: distance(text, name) })).sort((a, b) => a.far - b.far);
  return best && best.far <= Math.max(2, Math.floor(best.name.length / 3)) ? best.name : null;
};

/** Levenshtein distance. */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
};
