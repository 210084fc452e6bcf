import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { createArchive } from '../src/backup/create-archive.ts';
import { readManifest } from '../src/backup/manifest/read.ts';
import { selectionOf } from '../src/backup/select/select.ts';
import type { Selection } from '../src/backup/select/selection.ts';
import { chanceOf } from './mutants.ts';
import { selectedOf } from './selected.ts';
import { caseOf, makeTree } from './selection-cases.ts';

/** What gets into an archive is what the selection says: the scanner asks it as the plain walk does that is compared with restic. */

const CASES = 30;

/** Files, and directories with a slash at the end, of the manifest. */
const archivedOf = async (select: Selection, source: string): Promise<string[]> => {
  const manifest: Buffer[] = [];
  await createArchive({
    sources: [Buffer.from(source)],
    select,
    level: 1,
    recipients: [],
    archive: { write: () => undefined },
    manifest: { write: (bytes) => void manifest.push(Buffer.from(bytes)) },
    header: {},
    clock: { now: () => Date.now() },
  });
  const paths: string[] = [];
  for await (const line of readManifest(
    (async function* () {
      yield* manifest;
    })(),
    { identities: null },
  )) {
    if (line.type !== 'entry') continue;
    const path = `/${line.path.toString('latin1')}`;
    if (line.kind === 'file') paths.push(path);
    if (line.kind === 'directory') paths.push(`${path}/`);
  }
  return paths.filter((path) => path.startsWith(`${source}/`)).sort();
};

test(`${CASES} generated selections, archived`, async () => {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'aegis-selection-')));
  try {
    for (let seed = 700_000; seed < 700_000 + CASES; seed++) {
      const chance = chanceOf(seed);
      const source = join(root, `t-${seed}`);
      mkdirSync(source);
      const paths = makeTree(source, chance);
      const filePath = join(root, `excludes-${seed}`);
      const { excludes, file, env } = caseOf(source, paths, filePath, chance);
      if (file !== null) writeFileSync(filePath, file, 'latin1');
      const select = await selectionOf({ excludes, sources: [Buffer.from(source)], readFile, env }).catch(
        (fault: unknown) => {
          if (fault instanceof AegisError) return null; // malformed patterns are among them
          throw fault;
        },
      );
      if (select) expect(await archivedOf(select, source), `seed ${seed}`).toEqual(selectedOf(select, source));
      rmSync(source, { recursive: true });
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
