import { compileGlob, type Glob } from './glob.ts';

/** restic's patterns (its internal/filter): components split at `/`, `**` for any number of components, a leading `/` anchors at the root, any other
 *  pattern fits anywhere, `!` takes back what patterns before it excluded. Paths and patterns are strings of bytes. */

/** Any number of components: `**`, and what remains of a pattern that is `/` alone. */
const MANY = Symbol('**');
type Part = string | Glob | typeof MANY;

export interface Pattern {
  negated: boolean;
  /** Its first part is the root, `/`. */
  absolute: boolean;
  parts: readonly Part[];
  hasMany: boolean;
}

/** Null for a malformed one, and for an empty one 'empty'. */
export const parsePattern = (text: string): Pattern | 'empty' | null => {
  if (text === '') return 'empty';
  const negated = text.startsWith('!');
  const components = componentsOf(clean(negated ? text.slice(1) : text));
  const parts: Part[] = [];
  for (const component of components) {
    const part = component === '**' || component === '' ? MANY : partOf(component);
    if (part === null) return null;
    parts.push(part);
  }
  return { negated, absolute: components[0] === '/', parts, hasMany: parts.includes(MANY) };
};

const partOf = (component: string): string | Glob | null =>
  /[\\[\]*?]/.test(component) ? compileGlob(component) : component;

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

/** Whether a match ends at or behind the component number `leastEnd` (counted from 1); what stands behind a match lies below what it names. */
export const matchesPath = (pattern: Pattern, components: readonly string[], leastEnd: number): boolean => {
  if (pattern.hasMany) return matchesWithMany(pattern, components, leastEnd);
  const { parts, absolute } = pattern;
  if (absolute) return parts.length >= leastEnd && fitsAt(parts, components, 0);
  for (let end = components.length; end >= leastEnd && end > parts.length; end--)
    if (fitsAt(parts, components, end - parts.length)) return true;
  return false;
};

const fitsAt = (parts: readonly Part[], components: readonly string[], from: number): boolean => {
  for (let at = parts.length - 1; at >= 0; at--) {
    const component = components[from + at];
    if (component === undefined || !fits(parts[at], component)) return false;
  }
  return true;
};

const fits = (part: Part | undefined, component: string): boolean =>
  typeof part === 'function' ? part(component) : part === component;

/** All ends at once, part by part: no pattern takes more than its parts times the components. */
const matchesWithMany = ({ parts, absolute }: Pattern, components: readonly string[], leastEnd: number): boolean => {
  // reached[n]: the parts so far fit up to n components. A relative pattern begins anywhere behind the root.
  let reached = components.map((_, at) => (absolute ? at === 0 : at > 0));
  reached.push(!absolute);
  for (const part of parts) {
    const next: boolean[] = Array.from(reached, () => false);
    for (const [at, component] of components.entries()) {
      if (part === MANY) next[at] = reached[at] === true || (at > 0 && next[at - 1] === true);
      else if (reached[at] && fits(part, component)) next[at + 1] = true;
    }
    const end = components.length;
    if (part === MANY) next[end] = reached[end] === true || next[end - 1] === true;
    reached = next;
  }
  return reached.some((is, at) => is && at >= leastEnd);
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
