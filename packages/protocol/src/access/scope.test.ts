import { expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import { validate } from '../validation.ts';
import { parseScope, Scope } from './scope.ts';

const codeOf = (text: string): string | null => {
  try {
    parseScope(text);
    return null;
  } catch (error) {
    return error instanceof AegisError ? error.code : String(error);
  }
};

test('a scope is a selector of sites and labels, and of nothing that a node says itself or that comes and goes', () => {
  for (const good of [
    'site=fra',
    'site=fra-* or site=ber',
    'label.team=a and not label.env=prod',
    'not (site!=fra or label.kubernetes.io/role="db one")',
  ])
    expect([good, codeOf(good)]).toEqual([good, null]);
  for (const bad of [
    'all',
    'site=fra or all',
    'not all',
    'name=web-1',
    'site=fra and not (label.env=prod or status=online)',
    'capability=ebpf',
    'os=linux',
    'engine=docker',
    'fra',
    'site=',
    '',
    `site=${'x'.repeat(1024)}`,
  ])
    expect([bad, codeOf(bad)]).toEqual([bad, 'access.bad_scope']);
});

test('a body with a bad scope is refused by the schema, with the reason', () => {
  expect(validate(Scope, 'site=fra', 'scope')).toEqual({ ok: true, value: 'site=fra' });
  expect(validate(Scope, 'name=x', 'scope')).toMatchObject({
    ok: false,
    refusal: { field: 'scope', reason: expect.stringContaining("'name' is nothing that a scope may depend on") },
  });
});
