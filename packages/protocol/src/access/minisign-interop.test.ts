import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { formatMinisignPublicKey, parseMinisignPublicKey, signMinisign, verifyMinisign } from './minisign.ts';
import { formatMinisignSecretKey, generateMinisignKey, parseMinisignSecretKey } from './minisign-secret-key.ts';

/** Against the stock program: what either writes, the other reads. */

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-minisign-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const minisign = (args: readonly string[], input = ''): { code: number | null; out: string } => {
  const { status, stdout, stderr, error } = spawnSync('minisign', args, { cwd: folder, input, encoding: 'utf8' });
  if (error)
    throw new Error("this test needs minisign: install the Debian package 'minisign' ('bin/setup --test' does)", {
      cause: error,
    });
  return { code: status, out: stdout + stderr };
};
const file = (name: string, text: string | Buffer): string => {
  writeFileSync(join(folder, name), text);
  return name;
};
const textOf = (name: string): string => readFileSync(join(folder, name), 'utf8');

const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, at) => at & 0xff));

test('minisign verifies what we sign, with our key', () => {
  const key = generateMinisignKey();
  file('ours.pub', formatMinisignPublicKey({ ...key, raw: key.publicRaw }));
  file('bundle', bytes);
  file('bundle.minisig', signMinisign(bytes, key, { trustedComment: 'aegis-artifact-1 name=a version=1' }));
  expect(minisign(['-V', '-H', '-p', 'ours.pub', '-m', 'bundle'])).toEqual({
    code: 0,
    out: 'Signature and comment signature verified\nTrusted comment: aegis-artifact-1 name=a version=1\n',
  });
  file('other', bytes.subarray(1));
  expect(minisign(['-V', '-p', 'ours.pub', '-m', 'other', '-x', 'bundle.minisig']).code).not.toBe(0);
});

test('we verify what minisign signs, with its key, and sign with that key', async () => {
  expect(minisign(['-G', '-W', '-p', 'stock.pub', '-s', 'stock.key']).code).toBe(0);
  file('bundle', bytes);
  expect(minisign(['-S', '-s', 'stock.key', '-m', 'bundle', '-x', 'stock.minisig', '-t', 'théirs ✓']).code).toBe(0);
  const publicKey = parseMinisignPublicKey(textOf('stock.pub'));
  expect(verifyMinisign(bytes, textOf('stock.minisig'), publicKey)).toEqual({ trustedComment: 'théirs ✓' });

  const secret = await parseMinisignSecretKey(textOf('stock.key'), null);
  expect(secret).toMatchObject({ minisignId: publicKey.minisignId, publicRaw: publicKey.raw });
  expect(await formatMinisignSecretKey(secret, null)).toBe(textOf('stock.key'));
  file('again.minisig', signMinisign(bytes, secret, { trustedComment: 'théirs ✓' }));
  // Ed25519 is deterministic: the same key over the same bytes gives the stock program's very file.
  expect(textOf('again.minisig')).toBe(textOf('stock.minisig'));
});

test('the legacy kind is refused for what it is', () => {
  minisign(['-G', '-W', '-f', '-p', 'old.pub', '-s', 'old.key']);
  file('bundle', bytes);
  expect(minisign(['-S', '-l', '-s', 'old.key', '-m', 'bundle', '-x', 'old.minisig']).code).toBe(0);
  expect(() => verifyMinisign(bytes, textOf('old.minisig'), parseMinisignPublicKey(textOf('old.pub')))).toThrow(
    'The signature is of the legacy kind, which is not prehashed.',
  );
});

// Each derivation takes 1 GiB and some seconds, as the stock program's own do.
test('a key of minisign under a password opens here with it, and with no other', async () => {
  const password = 'pässword of the stock';
  expect(minisign(['-G', '-p', 'locked.pub', '-s', 'locked.key'], `${password}\n${password}\n`).code).toBe(0);
  const text = textOf('locked.key');
  const secret = await parseMinisignSecretKey(text, password);
  expect(secret.publicRaw).toEqual(parseMinisignPublicKey(textOf('locked.pub')).raw);
  await expect(parseMinisignSecretKey(text, `${password} `)).rejects.toMatchObject({ code: 'access.bad_password' });
});

test('a key of ours under a password opens in minisign with it, and with no other', async () => {
  const key = generateMinisignKey();
  file('mine.key', await formatMinisignSecretKey(key, 'our password'));
  file('mine.pub', formatMinisignPublicKey({ ...key, raw: key.publicRaw }));
  file('bundle', bytes);
  const signed = ['-S', '-s', 'mine.key', '-m', 'bundle', '-x', 'mine.minisig'];
  expect(minisign(signed, 'another\n')).toMatchObject({ code: 2, out: expect.stringContaining('Wrong password') });
  expect(minisign(signed, 'our password\n').code).toBe(0);
  expect(minisign(['-V', '-p', 'mine.pub', '-m', 'bundle', '-x', 'mine.minisig']).code).toBe(0);
});
