import * as z from 'zod/mini';
import en from 'zod/v4/locales/en.js';
import type { Schema } from './endpoint.ts';

/** Validation with messages for people: zod/mini carries no texts of its own, and a global configuration would be state. */

const english = { error: en().localeError };

export interface Refusal {
  /** Dotted path below `where`, e.g. `payload.timeout_sec`. */
  field: string;
  reason: string;
  issues: { field: string; reason: string }[];
}

const MAX_ISSUES = 10;

/** Either the value with defaults filled in, or what is wrong with it, the first fault first. */
export const validate = <S extends Schema>(
  schema: S,
  value: unknown,
  where: string,
): { ok: true; value: z.infer<S> } | { ok: false; refusal: Refusal } => {
  const parsed = z.safeParse(schema, value, english);
  if (parsed.success) return { ok: true, value: parsed.data };
  const issues = parsed.error.issues.flatMap(deepest).slice(0, MAX_ISSUES);
  const named = issues.map(({ path, message }) => ({ field: [where, ...path].map(String).join('.'), reason: message }));
  const first = named[0] ?? { field: where, reason: 'is not valid' };
  return { ok: false, refusal: { ...first, issues: named } };
};

type Issue = z.core.$ZodIssue;

/** A failed union only says "Invalid input": show the faults of the alternative that came closest (fewest, deepest). */
const deepest = (issue: Issue): Issue[] => {
  if (issue.code === 'invalid_key') return issue.issues.map((fault) => ({ ...fault, path: issue.path }));
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return [issue];
  const alternatives = issue.errors.map((faults) =>
    faults.flatMap(deepest).map((fault) => ({ ...fault, path: [...issue.path, ...fault.path] })),
  );
  const depth = (faults: Issue[]) => Math.max(...faults.map((fault) => fault.path.length));
  alternatives.sort((a, b) => depth(b) - depth(a) || a.length - b.length);
  return alternatives[0] ?? [issue];
};
