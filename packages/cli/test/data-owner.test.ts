import { chownSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { cliOfFile } from './cli-process.ts';

/** Root's hands on a data directory that belongs to the server's user, as after `systemctl start aegis-server`. */

const NOBODY = 65_534;
const folder = mkdtempSync(join(tmpdir(), 'aegis-data-owner-'));
const cli = cliOfFile();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const owners = (path: string): Record<string, number> =>
  Object.fromEntries(
    readdirSync(path, { recursive: true, encoding: 'utf8' })
      .sort()
      .map((name) => [name, lstatSync(join(path, name)).uid]),
  );

test('what root makes there belongs to its owner, before and after the first start', async () => {
  chownSync(folder, NOBODY, NOBODY);
  for (const argv of [['init'], ['token', '--role', 'viewer'], ['join-token']])
    expect(await cli.run(['server', ...argv, '--data-dir', folder])).toMatchObject({ code: 0, stderr: '' });
  const made = owners(folder);
  expect(Object.keys(made)).toEqual(expect.arrayContaining(['aegis.db', 'fleet.json', 'keys', 'keys/root.pem']));
  expect(new Set(Object.values(made))).toEqual(new Set([NOBODY]));
});

test('an error of the server part is told as it is, with its code', async () => {
  const nowhere = join(folder, 'nowhere');
  expect(await cli.run(['server', 'token', '--data-dir', nowhere, '--json'])).toMatchObject({
    code: 2,
    stderr: `${JSON.stringify({
      error: {
        code: 'config.invalid',
        message: `${nowhere} holds no fleet yet. Run 'aegis server init --data-dir ${nowhere}' first, or try 'aegis server start --dev'.`,
        details: {},
      },
    })}\n`,
  });
});

test("a certificate's fingerprint is taken as openssl prints it, and nothing else is", async () => {
  const bytes = Array.from({ length: 32 }, (_, at) => at.toString(16).padStart(2, '0'));
  const made = await cli.run([
    'server',
    'join-token',
    '--data-dir',
    folder,
    '--tls-fingerprint',
    bytes.join(':').toUpperCase(),
  ]);
  expect(made.stdout.toString()).toMatch(new RegExp(`^aegis1\\.\\S+\\.${bytes.join('')}\\n$`));
  expect(await cli.run(['server', 'join-token', '--data-dir', folder, '--tls-fingerprint', 'ab'])).toMatchObject({
    code: 2,
    stdout: Buffer.from(''),
  });
});
