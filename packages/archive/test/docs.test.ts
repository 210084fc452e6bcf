import { readdirSync, readFileSync } from 'node:fs';
import { BUNDLE_LIMITS } from '@aegis/protocol/artifacts/manifest';
import { expect, test } from 'vitest';
import { HOSTILE_CASES } from './hostile-cases.ts';

const SOURCE = new URL('../src/bundle/', import.meta.url);
const DOCS = new URL('../../../docs/artifact-format.md', import.meta.url);

/** Every reason that stands in the code: first arguments of refusals, and the table of tar's types. */
const reasonsInCode = (): string[] => {
  const code = readdirSync(SOURCE)
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .map((name) => readFileSync(new URL(name, SOURCE), 'utf8'))
    .join('\n');
  const refusals = code.matchAll(/(?:badBundle|overLimit|badManifest)\(\s*'([a-z_]+)'/g);
  const types = code.matchAll(/: \['([a-z_]+)', '/g);
  return [...new Set([...refusals, ...types].map(([, reason = '']) => reason))].sort();
};

test('docs/artifact-format.md names each reason, and a hostile case comes to it', () => {
  const docs = readFileSync(DOCS, 'utf8');
  const reasons = reasonsInCode();
  expect(reasons.length).toBeGreaterThan(50);
  expect(reasons.filter((reason) => !docs.includes(`\`${reason}\``))).toEqual([]);
  const cases = new Set(HOSTILE_CASES.map(({ reason }) => reason));
  expect(reasons.filter((reason) => !cases.has(reason))).toEqual([]);
});

test('the limits are those of docs/artifact-format.md', () => {
  const MIB = 1024 * 1024;
  expect(BUNDLE_LIMITS).toEqual({
    packedBytes: 16 * MIB,
    unpackedBytes: 64 * MIB,
    ratio: 200,
    files: 33,
    manifestBytes: MIB,
  });
});
