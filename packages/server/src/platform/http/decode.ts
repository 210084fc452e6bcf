import type { Schema } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** Values from outside against the endpoint's schema; what is refused is named by field and reason. */

const { localeError } = z.locales.en();
const MAX_REASONS = 5;

/** @param part where the value came from, for the message: 'path', 'query', 'body'
 *  @throws AegisError http.malformed with `details.issues` */
export const decode = (schema: Schema, value: unknown, part: string): unknown => {
  const result = z.safeParse(schema, value, { error: localeError });
  if (result.success) return result.data;
  const issues = flatten(result.error.issues).slice(0, MAX_REASONS);
  const text = issues
    .map(({ field, reason }) => `${part} ${field === '' ? '' : `field '${field}': `}${reason}`)
    .join('; ');
  throw new AegisError('http.malformed', `The request is malformed: ${text}.`, { details: { part, issues } });
};

interface Reason {
  field: string;
  reason: string;
}

/** A union says no more than "invalid input": the reasons of the member that failed latest are what a caller can use. */
const flatten = (issues: readonly z.core.$ZodIssue[], prefix: readonly PropertyKey[] = []): Reason[] =>
  issues.flatMap((issue): Reason[] => {
    const path = [...prefix, ...issue.path];
    if (issue.code === 'invalid_union' && issue.errors.length > 0) {
      const deepest = issue.errors.reduce((best, one) => (depthOf(one) > depthOf(best) ? one : best));
      return flatten(deepest, path);
    }
    return [{ field: path.map(String).join('.').slice(0, 200), reason: issue.message.slice(0, 300) }];
  });
const depthOf = (issues: readonly z.core.$ZodIssue[]): number =>
  Math.max(0, ...issues.map((issue) => issue.path.length));
