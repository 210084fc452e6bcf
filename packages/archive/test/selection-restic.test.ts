import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { selectionOf } from '../src/backup/select/select.ts';
import { chanceOf } from './mutants.ts';
import { resticSelection, startRestic } from './restic.ts';
import { selectedOf } from './selected.ts';
import { caseOf, makeTree } from './selection-cases.ts';

/** Generated trees and excludes: what is selected is what Debian's restic selects (AEGIS_SEED to repeat a run). */

const CASES = process.env.AEGIS_LONG ? 300 : 20;
const SEED = Number(process.env.AEGIS_SEED ?? 4);

test(`${CASES} generated selections are restic's`, { timeout: 60_000 + CASES * 5000 }, async () => {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'aegis-selection-')));
  using restic = startRestic();
  const outcomes = { same: 0, refusedByBoth: 0, sourceExcluded: 0 };
  try {
    for (let seed = SEED * 100_000; outcomes.same < CASES; seed++) {
      const chance = chanceOf(seed);
      const source = join(root, `t-${seed}`);
      mkdirSync(source);
      const paths = makeTree(source, chance);
      const filePath = join(root, `excludes-${seed}`);
      const { excludes, options, file, env } = caseOf(source, paths, filePath, chance);
      if (file !== null) writeFileSync(filePath, file, 'latin1');
      const ours = await selectionOf({
        excludes,
        sources: [Buffer.from(source)],
        readFile,
        env: { ...process.env, ...env },
      }).catch((fault: unknown) => {
        if (fault instanceof AegisError) return null;
        throw fault;
      });
      const theirs = await resticSelection(restic, source, options, env).catch((fault: unknown) => {
        if (/invalid pattern|tagfile/.test(String(fault))) return null;
        throw fault;
      });
      if (ours === null || theirs === null) {
        expect([ours, theirs], `seed ${seed}, ${JSON.stringify({ options, file })}`).toEqual([null, null]);
        outcomes.refusedByBoth += 1;
      } else if (theirs.length === 0)
        outcomes.sourceExcluded += 1; // ours never is
      else {
        expect(selectedOf(ours, source), `seed ${seed}, ${JSON.stringify({ options, file })}`).toEqual(theirs);
        outcomes.same += 1;
      }
      rmSync(source, { recursive: true });
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
  if (process.env.AEGIS_LONG) console.log(`selections: ${JSON.stringify(outcomes)}`);
});
