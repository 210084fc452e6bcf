import { compileGlob, type Glob } from './glob.ts';

/** restic's patterns (its internal/filter): components split at `/`, `**` for any number of components, a leading `/` anchors at the root, any other
 *  pattern fits anywhere, `!` takes back what patterns before it excluded. Paths and patterns are strings of bytes. */

type Part = string | Glob;

export interface Pattern {
  negated: boolean;
  /** Its first part is the root, `/`. */
  absolute: boolean;
  /** What stands between two `**`; empty where one begins or ends it, or two stand together. */
  stretches: readonly (readonly Part[])[];
}

/** Null for a malformed one, and for an empty one 'empty'. */
export const parsePattern = (text: string): Pattern | 'empty' | null => {
  if (text === '') return 'empty';
  const negated = text.startsWith('!');
  const components = componentsOf(clean(negated ? text.slice(1) : text));
  const stretches: Part[][] = [[]];
  for (const component of components) {
    if (component === '**' || component === '') {
      stretches.push([]); // empty: what remains of a pattern that is `/` alone
      continue;
    }
    const part = partOf(component);
    if (part === null) return null;
    stretches.at(-1)?.push(part);
  }
  return { negated, absolute: components[0] === '/', stretches };
};

const partOf = (component: string): Part | null => (/[\\[\]*?]/.test(component) ? compileGlob(component) : component);

/** As Go's filepath.Clean: no empty, `.` or resolvable `..` components, no slash at the end. */
const clean = (path: string): string => {
  const rooted = path.startsWith('/');
  const kept: string[] = [];
  for (const component of path.split('/')) {
    if (component === '' || component === '.') continue;
    if (component !== '..') kept.push(component);
    else if (kept.length > 0 && kept.at(-1) !== '..') kept.pop();
    else if (!rooted) kept.push('..');
  }
  return rooted ? `/${kept.join('/')}` : kept.join('/') || '.';
};

/** The first one of an absolute path is `/`. */
export const componentsOf = (path: string): string[] => {
  const components = path.split('/');
  if (components[0] === '') components[0] = '/';
  return components;
};

/** Whether a match ends at or behind the component number `leastEnd` (counted from 1); what stands behind a match lies below what it names.
 *  Each stretch is taken where it fits first, which leaves the most for those behind it: no pattern costs more than its parts times the components. */
export const matchesPath = (
  { absolute, stretches }: Pattern,
  components: readonly string[],
  leastEnd: number,
): boolean => {
  const last = stretches.length - 1;
  let at = absolute ? 0 : 1; // a relative one begins anywhere behind the root
  for (const [index, stretch] of stretches.entries()) {
    if (stretch.length === 0) {
      if (index === last) return true;
      continue;
    }
    const anchored = absolute && index === 0;
    const from = index === last ? Math.max(at, leastEnd - stretch.length) : at;
    const start = anchored ? anchoredAt(stretch, components, from) : firstFit(stretch, components, from);
    if (start === -1) return false;
    at = start + stretch.length;
  }
  return true;
};

const anchoredAt = (stretch: readonly Part[], components: readonly string[], from: number): number =>
  from === 0 && fitsAt(stretch, components, 0) ? 0 : -1;

const firstFit = (stretch: readonly Part[], components: readonly string[], from: number): number => {
  for (let start = from; start + stretch.length <= components.length; start++)
    if (fitsAt(stretch, components, start)) return start;
  return -1;
};

const fitsAt = (stretch: readonly Part[], components: readonly string[], from: number): boolean => {
  for (let at = stretch.length - 1; at >= 0; at--) {
    const part = stretch[at];
    const component = components[from + at];
    if (component === undefined || !(typeof part === 'function' ? part(component) : part === component)) return false;
  }
  return true;
};

/** Patterns in their order, later ones overriding. `floor` components of the path are the source's: a match that ends there does not exclude what
 *  lies below it, since a source is never excluded; but a `!` may match there. */
export const patternList = (
  patterns: readonly Pattern[],
): ((components: readonly string[], floor: number) => boolean) => {
  const someNegated = patterns.some(({ negated }) => negated);
  return (components, floor) => {
    // Without `!`, whoever asks has asked for each directory above: only what ends with the last component is new.
    const leastEnd = someNegated ? floor + 1 : components.length;
    let excluded = false;
    for (const pattern of patterns) {
      if (pattern.negated) excluded &&= !matchesPath(pattern, components, 1);
      else excluded ||= matchesPath(pattern, components, leastEnd);
      if (excluded && !someNegated) return true;
    }
    return excluded;
  };
};
