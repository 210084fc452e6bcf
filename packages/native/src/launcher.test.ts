import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { startLauncher } from './launcher.ts';

/** A script in place of the launcher, so that the pieces in which hints arrive can be chosen. */
const script = (body: string): string => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-launcher-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'launcher');
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
};

const run = async (binary: string, close: boolean): Promise<{ hints: string[][]; exits: unknown[] }> => {
  const hints: string[][] = [];
  const exits: unknown[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const launcher = startLauncher({
    binary,
    onHint: (...hint) => {
      hints.push(hint);
      if (hint[0] === 'last') resolve();
    },
    onExit: (how) => {
      exits.push(how);
      resolve();
    },
  });
  await promise;
  if (close) await launcher.close();
  await launcher.close();
  launcher.start('/after/the/end');
  return { hints, exits };
};

test('hints are put together from pieces, and what is no hint is passed over', async () => {
  const binary = script(
    `printf 'a cla'; sleep 0.05; printf 'imed\\na output\\n\\nnonsense\\nb failed no room: x\\na  exited\\nla'; sleep 0.05; printf 'st exited\\n'; cat >/dev/null`,
  );
  expect(await run(binary, true)).toEqual({
    hints: [
      ['a', 'claimed', ''],
      ['a', 'output', ''],
      ['b', 'failed', 'no room: x'],
      ['last', 'exited', ''],
    ],
    exits: [{ code: 0, signal: null, error: null }],
  });
});

test('the end is told once, with its reason', async () => {
  expect((await run(script('exit 3'), false)).exits).toEqual([{ code: 3, signal: null, error: null }]);
  expect((await run(script('kill -9 $$'), false)).exits).toEqual([{ code: null, signal: 'SIGKILL', error: null }]);
  expect((await run('/no/such/launcher', false)).exits).toEqual([
    { code: null, signal: null, error: expect.objectContaining({ code: 'ENOENT' }) },
  ]);
});
