import type { BackupSpec } from '@aegis/protocol/backups/config';

/** What differs between two configurations, field by field. */

export interface Difference {
  field: string;
  before: string | null;
  after: string | null;
}

/** @param before null: there is none yet. Lists are compared whole. */
export const specDiff = (before: BackupSpec | null, after: BackupSpec): Difference[] => {
  const [was, is] = [fieldsOf(before), fieldsOf(after)];
  return [...new Set([...was.keys(), ...is.keys()])]
    .map((field) => ({ field, before: was.get(field) ?? null, after: is.get(field) ?? null }))
    .filter((one) => one.before !== one.after)
    .sort((a, b) => (a.field < b.field ? -1 : 1));
};

const fieldsOf = (spec: BackupSpec | null): Map<string, string> => {
  const fields = new Map<string, string>();
  const walk = (value: unknown, path: string): void => {
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      for (const [name, inner] of Object.entries(value)) walk(inner, path === '' ? name : `${path}.${name}`);
    else if (value !== undefined) fields.set(path, JSON.stringify(value));
  };
  if (spec) walk(spec, '');
  return fields;
};
