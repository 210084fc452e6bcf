import { AegisError } from '@aegis/protocol/errors';
import type { Entry } from '../manifest/lines.ts';
import { componentsOf, matchesPath, type Pattern, parsePattern } from '../select/pattern.ts';

/** Patterns of paths to restore, read as restic's includes are: `*`, `?`, `[…]` within a name, `**` for any number of folders, a leading `/` for the
 *  root; without one, anywhere. What matches is taken with all below it. */

/** @throws AegisError backups.bad_config naming the pattern */
export const pathFilter = (patterns: readonly string[]): ((entry: Entry) => boolean) => {
  if (patterns.length === 0) return () => true;
  const parsed = patterns.map((text): Pattern => {
    const pattern = parsePattern(Buffer.from(text, 'utf8').toString('latin1'));
    if (pattern === null || pattern === 'empty' || pattern.negated)
      throw new AegisError(
        'backups.bad_config',
        `'${text.slice(0, 200)}' is no pattern of paths: use names, *, ?, [a-z] and **, as in '/etc/**/*.conf'; no '!'.`,
      );
    return pattern;
  });
  return ({ path }) => {
    const components = componentsOf(`/${path.toString('latin1')}`);
    return parsed.some((pattern) => matchesPath(pattern, components, 1));
  };
};
