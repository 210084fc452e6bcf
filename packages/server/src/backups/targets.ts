import { looksLikeSelector, matchSelector, parseSelector, type Selector } from '@aegis/protocol/commands/selector';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Candidate } from './node-door.ts';

/** Which nodes the names and selectors of a configuration mean. No selector reaches a keyless node: it obeys no directive, and is
 *  named where it is one of the seed's agents. */

/** Each is asked about each node, again and again. */
const MAX_SELECTORS = 20;

export interface Targets {
  includes(node: Candidate): boolean;
  names: readonly string[];
}

/** @throws AegisError backups.bad_config */
export const parseTargets = (texts: readonly string[]): Targets => {
  const selectors = texts.filter(looksLikeSelector).map(stableSelector);
  if (selectors.length > MAX_SELECTORS)
    throw new AegisError(
      'backups.bad_config',
      `${selectors.length} selectors are more than the ${MAX_SELECTORS} that one configuration takes. Join them with 'or', or name the nodes.`,
    );
  const names = texts.filter((text) => !looksLikeSelector(text));
  const named = new Set(names);
  return {
    names,
    includes: (node) =>
      // A node chooses its name: one that is another node's uid must not come in its way.
      named.has(node.uid) ||
      (named.has(node.name) && !isUuid(node.name)) ||
      (node.keyId !== null && selectors.some((selector) => matchSelector(selector, node))),
  };
};

const stableSelector = (text: string): Selector => {
  const selector = parsed(text);
  if (asksForStatus(selector))
    throw new AegisError(
      'backups.bad_config',
      `The selector '${text.slice(0, 200)}' asks for a status, which comes and goes: a node that is offline would lose its configuration. Select by name, site, capability, os, engine or label.`,
    );
  return selector;
};
const parsed = (text: string): Selector => {
  try {
    return parseSelector(text);
  } catch (cause) {
    if (!(cause instanceof AegisError)) throw cause;
    throw new AegisError('backups.bad_config', cause.message, { cause });
  }
};
const asksForStatus = (selector: Selector): boolean => {
  switch (selector.kind) {
    case 'all':
      return false;
    case 'term':
      return selector.key === 'status';
    case 'not':
      return asksForStatus(selector.of);
    case 'and':
    case 'or':
      return selector.of.some(asksForStatus);
  }
};

/** Names that no node bears. */
export const unknownNames = (names: readonly string[], candidates: readonly Candidate[]): string[] => {
  const known = new Set(candidates.flatMap(({ uid, name }) => (isUuid(name) ? [uid] : [uid, name])));
  return names.filter((name) => !known.has(name));
};
