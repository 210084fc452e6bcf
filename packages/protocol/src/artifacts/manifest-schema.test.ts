import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { manifestSchema } from './manifest-schema.ts';

const COMMITTED = new URL('../../../../docs/schemas/aegis-artifact-1.json', import.meta.url);

test("docs/schemas has the manifest's schema as the code generates it (else: node tools/write-artifact-schema.ts)", () => {
  expect(JSON.parse(readFileSync(COMMITTED, 'utf8'))).toEqual(JSON.parse(JSON.stringify(manifestSchema())));
});

test('every pattern is one that editors can compile, and every field of the first level says what it is for', () => {
  const patterns: string[] = [];
  JSON.stringify(manifestSchema(), (key, value) => {
    if (key === 'pattern') patterns.push(value);
    return value;
  });
  expect(patterns.length).toBeGreaterThan(20);
  for (const pattern of patterns) expect(() => new RegExp(pattern, 'u')).not.toThrow();
  const { properties } = manifestSchema() as { properties: Record<string, { description?: string }> };
  const silent = Object.keys(properties).filter((name) => !properties[name]?.description);
  expect(silent).toEqual(['format']);
});
