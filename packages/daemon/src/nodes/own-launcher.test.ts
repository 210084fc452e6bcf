import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ownLauncher } from './own-launcher.ts';

const folder = mkdtempSync(join(tmpdir(), 'aegis-launcher-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the CLI's bundle beside the daemon's, else the built one of the work tree, else none", () => {
  const sources = join(folder, 'packages/daemon/src/nodes');
  const built = join(folder, 'packages/cli/dist');
  mkdirSync(sources, { recursive: true });
  expect(ownLauncher(sources)).toBeNull();
  mkdirSync(built, { recursive: true });
  writeFileSync(join(built, 'aegis.cjs'), '');
  expect(ownLauncher(sources)).toEqual([process.execPath, join(built, 'aegis.cjs')]);
  expect(ownLauncher(built)).toEqual([process.execPath, join(built, 'aegis.cjs')]);
});
