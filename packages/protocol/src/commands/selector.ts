/** Selectors: `site=fra and not label.env=prod`. Keys: name, uid, site, capability, os, engine, status, label.KEY; `=` and `!=`; `*` in a
 *  value matches any run of characters; `and`, `or`, `not`, parentheses; values with spaces or operators in double quotes.
 *  `not` binds strongest, then `and`, then `or`. */
import { AegisError } from '../errors.ts';

export type Selector =
  | { kind: 'all' }
  | { kind: 'term'; key: string; equals: boolean; value: string }
  | { kind: 'not'; of: Selector }
  | { kind: 'and' | 'or'; of: Selector[] };

/** What a selector can see of a node. */
export interface Selectable {
  name: string;
  uid?: string;
  site: string | null;
  capabilities: readonly string[];
  os: string | null;
  container_engine: string | null;
  status: string;
  labels: Readonly<Record<string, string>>;
}

const KEYS = ['name', 'uid', 'site', 'capability', 'os', 'engine', 'status'];
const MAX_TERMS = 200;
const MAX_DEPTH = 32;

/** Whether a target's text is a selector rather than a node's name or uid. */
export const looksLikeSelector = (text: string): boolean => text === 'all' || /[=!()\s"]/.test(text);

const refuse = (text: string, why: string): AegisError =>
  new AegisError(
    'commands.bad_selector',
    `The selector '${text.slice(0, 200)}' is not understood: ${why}. Example: site=fra and not label.env=prod`,
  );

/** @throws AegisError commands.bad_selector */
export const parseSelector = (text: string): Selector => {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|!=|[=()]|[^\s=!()"]+|\S/g) ?? [];
  if (tokens.length > MAX_TERMS * 6) throw refuse(text, 'it is too long');
  let at = 0;
  const take = (): string | undefined => tokens[at++];
  const isWord = (token: string | undefined, word: string) => token?.toLowerCase() === word;

  const either = (depth: number): Selector => {
    if (depth > MAX_DEPTH) throw refuse(text, 'it is nested too deeply');
    const of = [both(depth)];
    while (isWord(tokens[at], 'or')) {
      at++;
      of.push(both(depth));
    }
    return of.length === 1 && of[0] ? of[0] : { kind: 'or', of };
  };
  const both = (depth: number): Selector => {
    const of = [one(depth)];
    while (isWord(tokens[at], 'and')) {
      at++;
      of.push(one(depth));
    }
    return of.length === 1 && of[0] ? of[0] : { kind: 'and', of };
  };
  const one = (depth: number): Selector => {
    const token = take();
    if (token === undefined) throw refuse(text, 'it ends too early');
    if (isWord(token, 'not')) {
      if (depth > MAX_DEPTH) throw refuse(text, 'it is nested too deeply');
      return { kind: 'not', of: one(depth + 1) };
    }
    if (token === '(') {
      const inner = either(depth + 1);
      if (take() !== ')') throw refuse(text, "a ')' is missing");
      return inner;
    }
    if (isWord(token, 'all') && tokens[at] !== '=' && tokens[at] !== '!=') return { kind: 'all' };
    if (!KEYS.includes(token) && !/^label\.[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/.test(token))
      throw refuse(text, `no key '${token.slice(0, 60)}' (there are ${KEYS.join(', ')} and label.KEY)`);
    const operator = take();
    if (operator !== '=' && operator !== '!=') throw refuse(text, `'${token}' wants = or !=`);
    const value = take();
    if (value === undefined || ['=', '!=', '(', ')', '!'].includes(value))
      throw refuse(text, `'${token}${operator}' wants a value`);
    return { kind: 'term', key: token, equals: operator === '=', value: unquote(value) };
  };

  const selector = either(0);
  if (at < tokens.length) throw refuse(text, `'${tokens[at]?.slice(0, 60)}' was not expected`);
  return selector;
};

const unquote = (text: string): string => (text.startsWith('"') ? text.slice(1, -1).replace(/\\(.)/g, '$1') : text);

/** Glob with `*` only, in linear time: greedy pieces, no backtracking expression built from outside text. */
const globMatches = (pattern: string, text: string): boolean => {
  const pieces = pattern.split('*');
  const [first = '', ...rest] = pieces;
  if (rest.length === 0) return pattern === text;
  if (!text.startsWith(first)) return false;
  let at = first.length;
  const last = rest.pop() ?? '';
  for (const piece of rest) {
    const found = text.indexOf(piece, at);
    if (found < 0) return false;
    at = found + piece.length;
  }
  return text.length - at >= last.length && text.endsWith(last);
};

export const matchSelector = (selector: Selector, node: Selectable): boolean => {
  switch (selector.kind) {
    case 'all':
      return true;
    case 'not':
      return !matchSelector(selector.of, node);
    case 'and':
      return selector.of.every((one) => matchSelector(one, node));
    case 'or':
      return selector.of.some((one) => matchSelector(one, node));
    case 'term':
      return valuesOf(selector.key, node).some((value) => globMatches(selector.value, value)) === selector.equals;
  }
};

/** The keys that it asks for. */
export const selectorKeys = (selector: Selector): Set<string> => {
  if (selector.kind === 'all') return new Set();
  if (selector.kind === 'term') return new Set([selector.key]);
  if (selector.kind === 'not') return selectorKeys(selector.of);
  return new Set(selector.of.flatMap((one) => [...selectorKeys(one)]));
};

const valuesOf = (key: string, node: Selectable): readonly string[] => {
  const present = (value: string | null | undefined): string[] =>
    value === null || value === undefined ? [] : [value];
  if (key.startsWith('label.')) {
    const name = key.slice('label.'.length);
    return Object.hasOwn(node.labels, name) ? present(node.labels[name]) : [];
  }
  switch (key) {
    case 'name':
      return [node.name];
    case 'uid':
      return present(node.uid);
    case 'site':
      return present(node.site);
    case 'capability':
      return node.capabilities;
    case 'os':
      return present(node.os);
    case 'engine':
      return present(node.container_engine);
    default:
      return [node.status];
  }
};
