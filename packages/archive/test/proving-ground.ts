import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { expect, onTestFinished } from 'vitest';
import type { RestoreOptions, RestoreResult } from '../src/backup/restore/backup.ts';
import { type Parts, takeApart } from './backup-forge.ts';
import { type MadeBackup, makeBackup, openMade } from './backup-maker.ts';
import { noise } from './hostile-tree.ts';
import { differences, snapshot } from './tree-compare.ts';

/** Where hostile restores are tried: a small backup, plain and encrypted, and something outside the target that must stay as it is. */

export interface Attempt {
  result: RestoreResult | null;
  /** Code and reason, when it was refused or broke off. */
  refused: string | null;
  target: string;
}

export interface Proving {
  base: string;
  source: string;
  outside: string;
  wanted: Map<string, string>;
  plain: MadeBackup;
  sealed: MadeBackup;
  parts: Parts;
  newTarget(): string;
  /** Opens and restores; then looks whether anything outside was touched, or a temporary name was left. */
  attempt(made: MadeBackup, options?: Partial<RestoreOptions>, target?: string): Promise<Attempt>;
  /** Where the source comes back to. */
  restoredIn(target: string): string;
  /** What is there is the source's; folders may have been left before they were finished. */
  expectOnlyTruth(attempt: Attempt): Map<string, string>;
  isWhole(attempt: Attempt): boolean;
  expectOutsideUntouched(): void;
  [Symbol.dispose](): void;
}

export const provingGround = async (): Promise<Proving> => {
  const base = mkdtempSync(join(tmpdir(), 'aegis-hostile-'));
  const outside = join(base, 'outside');
  mkdirSync(outside);
  writeFileSync(join(outside, 'secret'), 'must stay as it is');
  chmodSync(join(outside, 'secret'), 0o600);
  symlinkSync('secret', join(outside, 'link'));
  const before = snapshot(outside);
  const source = join(base, 's');
  mkdirSync(join(source, 'folder/inner'), { recursive: true });
  writeFileSync(join(source, 'folder/small'), noise('small', 3000));
  writeFileSync(join(source, 'folder/inner/file'), 'inner');
  writeFileSync(join(source, 'large'), noise('large', 4_500_000));
  linkSync(join(source, 'large'), join(source, 'large-link'));
  writeFileSync(join(source, 'sparse'), noise('sparse', 5000));
  truncateSync(join(source, 'sparse'), 1024 ** 2);
  symlinkSync('folder/small', join(source, 'symlink'));
  writeFileSync(join(source, 'setuid'), '#!/bin/sh\n');
  chownSync(join(source, 'setuid'), 12_345, 54_321);
  chmodSync(join(source, 'setuid'), 0o6755);
  const wanted = snapshot(source);
  const plain = await makeBackup([source]);
  const sealed = await makeBackup([source], { encrypted: true });
  const parts = await takeApart(plain);
  const expectOutsideUntouched = (): void => expect(differences(before, snapshot(outside))).toEqual([]);
  const newTarget = (): string => {
    const target = mkdtempSync(join(base, 'target-'));
    onTestFinished(() => rmSync(target, { recursive: true, force: true }));
    return target;
  };

  /** Opens and restores; then looks whether anything outside was touched, or a temporary name was left. */
  const attempt = async (
    made: MadeBackup,
    options: Partial<RestoreOptions> = {},
    target = newTarget(),
  ): Promise<Attempt> => {
    let result: RestoreResult | null = null;
    let refused: string | null = null;
    try {
      await using backup = await openMade(made);
      result = await backup.restore({ target, owners: true, setuid: true, ...options });
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      refused = `${error.code} ${error.details.reason ?? ''}`.trim();
    }
    expectOutsideUntouched();
    for (const path of snapshot(target).keys()) expect(path).not.toContain('.aegis-restore-');
    return { result, refused, target };
  };

  const restoredIn = (target: string): string => join(target, source.slice(1));
  /** What is there is the source's; folders may have been left before they were finished. */
  const expectOnlyTruth = ({ target }: Attempt): Map<string, string> => {
    if (!existsSync(restoredIn(target))) return new Map();
    const options = { ignore: ['links', 'same'] };
    const truth = snapshot(source, options);
    const there = snapshot(restoredIn(target), options);
    for (const [path, facts] of there)
      if (!facts.startsWith('{"kind":"directory"')) expect(facts, path).toBe(truth.get(path));
      else expect(truth.has(path), path).toBe(true);
    return there;
  };
  const isWhole = ({ result, refused, target }: Attempt): boolean =>
    refused === null && result?.errorCount === 0 && differences(wanted, snapshot(restoredIn(target))).length === 0;

  return {
    base,
    source,
    outside,
    wanted,
    plain,
    sealed,
    parts,
    newTarget,
    attempt,
    restoredIn,
    expectOnlyTruth,
    isWhole,
    expectOutsideUntouched,
    [Symbol.dispose]: () => rmSync(base, { recursive: true }),
  };
};
