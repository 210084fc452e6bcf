import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { leavingOut, leftOut } from './leaving-out.ts';
import { everything } from './selection.ts';

const base = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-leaving-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
};

test('a folder is left out under the name by which a source leads to it, and nothing else is', () => {
  const at = base();
  mkdirSync(join(at, 'real/data/spool/inner'), { recursive: true });
  symlinkSync('real', join(at, 'link'));
  const spool = join(at, 'link/data/spool');
  const left = (source: string, path: string): boolean =>
    !leavingOut(everything, leftOut([spool, join(at, 'missing')], [source])).includesPath(Buffer.from(path));
  for (const [source, path, is] of [
    ['/', join(at, 'real/data/spool'), true],
    [at, join(at, 'real/data/spool'), true],
    [`${at}/`, join(at, 'real/data/spool'), true],
    [at, join(at, 'real/data'), false],
    [at, join(at, 'real/data/spool2'), false],
    [join(at, 'link/data'), join(at, 'link/data/spool'), true],
    [join(at, 'real/data/spool'), join(at, 'real/data/spool'), false],
    [join(at, 'real/data/spool/inner'), join(at, 'real/data/spool/inner/x'), false],
    [join(at, 'elsewhere'), join(at, 'real/data/spool'), false],
  ] as const)
    expect([source, path, left(source, path)]).toEqual([source, path, is]);
});
