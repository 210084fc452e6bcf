import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { programPath } from '../../packages/bpf-loader/test/programs.ts';
import { cleanEnv, root } from '../fleet/fleet.ts';

/** What deploy/install.sh puts in place is all that an installed Aegis needs: nothing reaches back into the work tree. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-install-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const installed = (...args: string[]): string =>
  execFileSync(join(folder, 'usr/bin/aegis'), args, { encoding: 'utf8', env: cleanEnv(folder) });
beforeAll(() => {
  execFileSync(join(root, 'deploy/install.sh'), ['--destdir', folder], { stdio: ['ignore', 'ignore', 'inherit'] });
});

test('the command, the loader and the supervisor are found where they were installed', () => {
  expect(installed('--version')).toMatch(/^aegis\/\d+\.\d+\.\d+ /);
  const inspected = JSON.parse(installed('artifacts', 'inspect', programPath('attach_xdp'), '--json')) as {
    objects: { programs: { type: string }[] }[];
  };
  expect(inspected.objects.flatMap(({ programs }) => programs.map(({ type }) => type))).toEqual(['xdp']);
  for (const file of ['aegis-exec', 'aegis_native.node', 'aegis_bpf.node'])
    expect([file, existsSync(join(folder, 'usr/lib/aegis/packages/cli/dist', file))]).toEqual([file, true]);
});
