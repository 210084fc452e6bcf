/** Exclude files as restic reads them: one pattern a line, white space around it cut off, `#` begins a comment line, `$NAME` and `${NAME}` are taken from
 *  the environment, `$$` is a dollar sign; UTF-16 and UTF-8 with a byte order mark too. Text is a string of bytes. */

export const MAX_LINE_BYTES = 65_535;
export const MAX_FILE_BYTES = 16 * 1024 * 1024;

export interface FilePattern {
  /** From 1. */
  line: number;
  /** After variables were put in. */
  text: string;
  /** As it stands in the file: what may be shown. */
  written: string;
}

/** Null where a line has more than MAX_LINE_BYTES. */
export const parseExcludeFile = (
  bytes: Buffer,
  env: Readonly<Record<string, string | undefined>>,
): FilePattern[] | null => {
  const lines = decoded(bytes).split('\n');
  if (lines.some((line) => line.length > MAX_LINE_BYTES)) return null;
  return lines.flatMap((line, at) => {
    const written = trimmed(line);
    if (written === '' || written.startsWith('#')) return [];
    return [{ line: at + 1, written, text: expandVariables(written, env) }];
  });
};

const decoded = (bytes: Buffer): string => {
  if (bytes.length >= 3 && bytes.readUIntBE(0, 3) === 0xefbbbf) return bytes.toString('latin1', 3);
  const mark = bytes.length >= 2 ? bytes.readUInt16BE(0) : 0;
  if (mark !== 0xfeff && mark !== 0xfffe) return bytes.toString('latin1');
  const text = new TextDecoder(mark === 0xfeff ? 'utf-16be' : 'utf-16le').decode(bytes);
  return Buffer.from(text, 'utf8').toString('latin1');
};

/** What Unicode calls white space, as UTF-8. */
const SPACE =
  '(?:[\\t\\n\\v\\f\\r ]|\\xc2[\\x85\\xa0]|\\xe1\\x9a\\x80|\\xe2\\x80[\\x80-\\x8a\\xa8\\xa9\\xaf]|\\xe2\\x81\\x9f|\\xe3\\x80\\x80)';
const AROUND = new RegExp(`^${SPACE}+`);
const LONE_SPACE = new RegExp(`${SPACE}$`);

const trimmed = (line: string): string => {
  let text = line.replace(AROUND, '');
  for (let end = LONE_SPACE.exec(text); end; end = LONE_SPACE.exec(text)) text = text.slice(0, end.index);
  return text;
};

/** As Go's os.Expand: `$` before anything that is no name stays, `${` without an end and `${}` vanish, `$1`, `$*` and their like are variables too. */
const VARIABLE = /\$(?:\{([*#$@!?\-0-9])\}|\{([^}]+)\}|(\{\}?)|([*#$@!?\-0-9])|([A-Za-z0-9_]+))/g;

export const expandVariables = (text: string, env: Readonly<Record<string, string | undefined>>): string =>
  text.replace(VARIABLE, (_, special?: string, braced?: string, broken?: string, short?: string, plain?: string) => {
    const name = special ?? braced ?? short ?? plain;
    if (broken !== undefined || name === undefined) return '';
    return name === '$' ? '$' : Buffer.from(env[name] ?? '', 'utf8').toString('latin1');
  });
