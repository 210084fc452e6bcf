import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { FRAME_BYTES } from '../src/backup/frames.ts';
import { MOST_LINKED_INODES } from '../src/backup/hard-links.ts';
import {
  ENTRY_KINDS,
  ENTRY_STATUSES,
  EntryLine,
  MAX_FRAMES_OF_LINE,
  MAX_PATH_BYTES,
} from '../src/backup/manifest/lines.ts';
import { FRAME_LIMITS } from '../src/backup/restore/frame-table.ts';
import { MAX_HEADER_BYTES } from '../src/backup/restore/read-header.ts';
import { OWN_CODES } from '../src/backup/source-problem.ts';
import { MOST_SEGMENTS } from '../src/backup/sparse.ts';
import { Statement } from '../src/backup/statement.ts';
import { MOST_XATTR_BYTES } from '../src/backup/tar-header.ts';

const docs = readFileSync(new URL('../../../docs/backup-format.md', import.meta.url), 'utf8');
const keysOf = (schema: { def: { shape: object } }): string[] => Object.keys(schema.def.shape);

test('docs/backup-format.md names every field, kind, status, code and PAX key', () => {
  const code = readFileSync(new URL('../src/backup/tar-header.ts', import.meta.url), 'utf8');
  const keys = [...code.matchAll(/records\.add\('([a-zA-Z.]+)'/g)].map(([, key = '']) =>
    key.replace(/^GNU\.sparse(?=\.(minor|name|realsize))/, ''),
  );
  expect(keys.length).toBeGreaterThan(8);
  const words = [...keysOf(EntryLine), ...keysOf(Statement), ...ENTRY_KINDS, ...ENTRY_STATUSES, ...OWN_CODES, ...keys];
  const inCode = new Set(
    [...docs.replaceAll(/```[\s\S]*?```/g, '').matchAll(/`([^`\n]+)`/g)].flatMap(([, text = '']) => text.split(' ')),
  );
  expect(words.filter((word) => !inCode.has(word) && !inCode.has(word.replace(/_b64$/, ''))).sort()).toEqual(['type']);
});

test('its numbers are those of the code', () => {
  const MIB = 1024 * 1024;
  const numbers = [
    [MAX_PATH_BYTES, 'A path has at most 262,144 bytes', 262_144],
    [FRAME_BYTES, 'each holds 4 MiB of the tar', 4 * MIB],
    [FRAME_LIMITS.contentBytes, 'at most 16 MiB of content', 16 * MIB],
    [FRAME_LIMITS.packedBytes, 'and 17 MiB packed', 17 * MIB],
    [MAX_HEADER_BYTES, 'have at most 8 MiB', 8 * MIB],
    [MOST_XATTR_BYTES, 'of more than 4 MiB of extended attributes', 4 * MIB],
    [MOST_SEGMENTS + 1, 'at most 65,537 segments', 65_537],
    [MOST_LINKED_INODES, 'At most a million inodes', 1_000_000],
    [MAX_FRAMES_OF_LINE, 'at most 4,096 pairs', 4096],
  ] as const;
  expect(numbers.filter(([is, text, said]) => is !== said || !docs.includes(text))).toEqual([]);
});
