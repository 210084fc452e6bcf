/** Scopes: the part of the fleet that an operator's token may see and change, as a selector over `site` and `label.KEY` alone. What else
 *  selectors know of a node (name, capabilities, system, status) the node says itself, or it comes and goes: nobody's rights hang on it. */
import * as z from 'zod/mini';
import { parseSelector, type Selector } from '../commands/selector.ts';
import { AegisError } from '../errors.ts';

const MAX_CHARS = 1024;

/** @throws AegisError access.bad_scope */
export const parseScope = (text: string): Selector => {
  if (text.length > MAX_CHARS) throw refuse(`it is longer than ${MAX_CHARS} characters`);
  const selector = parsed(text);
  const foreign = foreignTerm(selector);
  if (foreign === 'all') throw refuse("'all' is the whole fleet; leave the scope out for that");
  if (foreign !== null) throw refuse(`'${foreign}' is nothing that a scope may depend on`);
  return selector;
};

/** The text of a scope. */
export const Scope = z.string().check(
  z.minLength(1),
  z.maxLength(MAX_CHARS),
  z.superRefine((text, context) => {
    try {
      parseScope(text);
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      context.addIssue({ code: 'custom', message: error.message });
    }
  }),
);
export type Scope = z.infer<typeof Scope>;

const parsed = (text: string): Selector => {
  try {
    return parseSelector(text);
  } catch (cause) {
    if (!(cause instanceof AegisError)) throw cause;
    throw new AegisError('access.bad_scope', cause.message, { cause });
  }
};

const foreignTerm = (selector: Selector): string | null => {
  switch (selector.kind) {
    case 'all':
      return 'all';
    case 'term':
      return selector.key === 'site' || selector.key.startsWith('label.') ? null : selector.key;
    case 'not':
      return foreignTerm(selector.of);
    case 'and':
    case 'or':
      return selector.of.map(foreignTerm).find((key) => key !== null) ?? null;
  }
};

const refuse = (why: string): AegisError =>
  new AegisError(
    'access.bad_scope',
    `The scope is refused: ${why}. A scope is a selector of site and label.KEY. Example: site=fra and label.env=prod`,
  );
