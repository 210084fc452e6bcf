import type { Schema } from '@aegis/protocol/endpoint';
import * as z from 'zod/mini';

/** From an endpoint's schema and a good value: each field once with every kind of value that it does not take, once missing where
 *  it is required. Taken from the schema, so that new fields are covered the day they are added. */
export interface Wrong {
  /** Dotted path of the field. */
  field: string;
  what: string;
  value: unknown;
}

interface JsonSchema {
  type?: string | string[];
  const?: unknown;
  enum?: unknown[];
  anyOf?: JsonSchema[];
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  additionalProperties?: JsonSchema | boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  maxLength?: number;
  minLength?: number;
  maxItems?: number;
  minItems?: number;
  pattern?: string;
  format?: string;
}

export const jsonSchemaOf = (schema: Schema): JsonSchema =>
  z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;

export const wrongBodies = (schema: Schema, good: unknown): Wrong[] => [...walk(jsonSchemaOf(schema), good, [], good)];

const MIB = 1024 * 1024;
const VALUES: Readonly<Record<string, unknown>> = {
  string: 'text',
  number: 1.5,
  boolean: true,
  null: null,
  array: [[]],
  object: { nonsense: 1 },
};
const alternatives = (schema: JsonSchema): JsonSchema[] => {
  if (schema.anyOf) return schema.anyOf.flatMap(alternatives);
  const { type } = schema;
  return Array.isArray(type) ? type.map((one) => ({ ...schema, type: one })) : [schema];
};
const takes = (schema: JsonSchema, kind: string): boolean => {
  if (schema.enum) return schema.enum.some((one) => kindOf(one) === kind);
  if (schema.const !== undefined) return kindOf(schema.const) === kind;
  if (schema.type === undefined) return true; // anything
  return schema.type === 'integer' ? kind === 'number' : schema.type === kind;
};
const kindOf = (value: unknown): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);

function* walk(schema: JsonSchema, good: unknown, path: string[], whole: unknown): Generator<Wrong> {
  const options = alternatives(schema);
  if (path.length > 0) {
    for (const [kind, value] of Object.entries(VALUES))
      if (!options.some((one) => takes(one, kind))) yield wrong(whole, path, kind, value);
    if (options.length === 1 && options[0])
      for (const [what, value] of beyond(options[0])) yield wrong(whole, path, what, value);
  }
  for (const option of options) {
    if (kindOf(good) === 'object' && option.properties) {
      const fields = good as Record<string, unknown>;
      // Another alternative of a union is another shape: not this value's.
      if (!(option.required ?? []).every((name) => name in fields)) continue;
      for (const [name, inner] of Object.entries(option.properties)) {
        yield* walk(inner, fields[name], [...path, name], whole);
        if (option.required?.includes(name)) yield wrong(whole, [...path, name], 'missing', undefined);
      }
    } else if (kindOf(good) === 'object' && typeof option.additionalProperties === 'object') {
      const [name] = Object.keys(good as object);
      if (name !== undefined)
        yield* walk(option.additionalProperties, (good as Record<string, unknown>)[name], [...path, name], whole);
    } else if (Array.isArray(good) && option.items && good.length > 0) {
      yield* walk(option.items, good[0], [...path, '0'], whole);
    }
  }
}

/** Values of the right type outside their bounds. */
function* beyond(schema: JsonSchema): Generator<[string, unknown]> {
  if (schema.enum) yield ['no such choice', 'no-such-choice'];
  // What is too long for a whole body is refused as that.
  if (schema.maxLength !== undefined && schema.maxLength < MIB) yield ['too long', 'x'.repeat(schema.maxLength + 1)];
  if (schema.minLength !== undefined && schema.minLength > 0) yield ['empty', ''];
  if (schema.pattern !== undefined) yield ['another pattern', '\u{1f4a5} no'];
  if (schema.format !== undefined) yield ['another format', 'no-such-format'];
  if (schema.minimum !== undefined) yield ['too small', schema.minimum - 1];
  if (schema.exclusiveMinimum !== undefined) yield ['too small', schema.exclusiveMinimum];
  if (schema.maximum !== undefined) yield ['too large', schema.maximum + 1];
  if (schema.type === 'integer') yield ['a fraction', 1.5];
  if (schema.maxItems !== undefined) yield ['too many', Array.from({ length: schema.maxItems + 1 }, () => 'x')];
  if (schema.minItems !== undefined && schema.minItems > 0) yield ['none', []];
}

const wrong = (whole: unknown, path: string[], what: string, value: unknown): Wrong => {
  const copy: unknown = structuredClone(whole);
  let at = copy as Record<string, unknown>;
  for (const name of path.slice(0, -1)) at = at[name] as Record<string, unknown>;
  const last = path.at(-1) ?? '';
  if (value === undefined) delete at[last];
  else at[last] = value;
  return { field: path.join('.'), what, value: copy };
};

/** Query values that are not what the schema takes; all arrive as text. */
export const wrongQueries = (schema: Schema): { name: string; value: string }[] =>
  Object.entries(jsonSchemaOf(schema).properties ?? {}).flatMap(([name, inner]) =>
    alternatives(inner).flatMap((one) => queryValues(one).map((value) => ({ name, value }))),
  );
const queryValues = (schema: JsonSchema): string[] => [
  ...(schema.type === 'number' || schema.type === 'integer' ? ['x', '1e999', 'NaN', '-1'] : []),
  ...(schema.type === 'integer' ? ['1.5'] : []),
  ...(schema.maximum === undefined ? [] : [String(schema.maximum + 1)]),
  ...(schema.enum ? ['no-such-choice'] : []),
  ...(schema.maxLength === undefined ? [] : ['x'.repeat(schema.maxLength + 1)]),
  ...(schema.pattern === undefined ? [] : ['\u{1f4a5}']),
];
