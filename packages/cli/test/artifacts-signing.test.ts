import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { formatMinisignPublicKey, parseMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { formatMinisignSecretKey, generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ArtifactFolder, BUNDLE, packedFolder } from './artifact-folder.ts';
import { refused } from './cli-process.ts';

/** Signing and verifying on the author's own machine, with the stock minisign beside it. */

let author: ArtifactFolder;
beforeAll(async () => {
  author = await packedFolder();
  author.newKey('release');
});
afterAll(() => author?.[Symbol.dispose]());

const sha256 = (file: string) => author.sha256(file);
const artifacts = (...args: string[]) => author.aegis(['artifacts', ...args]);
/** Not as the stock program's comment says it: there an id has no leading zeros. */
const idOf = (pub: string) => parseMinisignPublicKey(readFileSync(author.at(pub), 'utf8')).minisignId;

test('sign: the stock minisign accepts it, and ours accepts the stock one with the right comment', async () => {
  const id = idOf('release.pub');
  const signed = await artifacts('sign', BUNDLE, '--key', 'release.key');
  const comment = /time=(\S+)/.exec(signed.stdout)?.[1];
  expect(signed).toEqual({
    code: 0,
    stdout: `signature:       ${BUNDLE}.minisig
artifact:        block-icmp@1.0.0
sha256:          ${sha256(BUNDLE)}
key:             ${id}
trusted comment: aegis-artifact-1 name=block-icmp version=1.0.0 time=${comment}
`,
    stderr: '',
  });
  const stock = execFileSync('minisign', ['-V', '-p', 'release.pub', '-m', BUNDLE], {
    cwd: author.folder,
    encoding: 'utf8',
  });
  expect(stock).toBe(
    `Signature and comment signature verified\nTrusted comment: aegis-artifact-1 name=block-icmp version=1.0.0 time=${comment}\n`,
  );
  const trusted = 'aegis-artifact-1 name=block-icmp version=1.0.0 time=2026-01-31T08:00:00Z';
  execFileSync('minisign', ['-S', '-s', 'release.key', '-m', BUNDLE, '-x', 'stock.minisig', '-t', trusted], {
    cwd: author.folder,
  });
  const verified = await artifacts('verify', BUNDLE, '--signature', 'stock.minisig', '--public-key', 'release.pub');
  expect({ ...verified, stdout: verified.stdout.replace(/\([0-9a-f]{16}\)/, '(…)') }).toEqual({
    code: 0,
    stdout: `artifact:  block-icmp@1.0.0
sha256:    ${sha256(BUNDLE)}
size:      ${(readFileSync(author.at(BUNDLE)).length / 1024).toFixed(1)} KiB
signed by: release.pub (…)
`,
    stderr: '',
  });
});

test('sign with a key under a password', async () => {
  // Cheap to open: what the stock program writes takes 1 GiB and seconds.
  const key = generateMinisignKey();
  const limits = { opslimit: 32_768, memlimit: 1024 * 1024 };
  writeFileSync(author.at('locked.key'), await formatMinisignSecretKey(key, 'open sesame', limits));
  writeFileSync(author.at('locked.pub'), formatMinisignPublicKey({ minisignId: key.minisignId, raw: key.publicRaw }));
  const sign = (...more: string[]) => artifacts('sign', BUNDLE, '--key', 'locked.key', '-o', 'locked.minisig', ...more);
  expect(await sign()).toEqual(
    refused(
      'A password is needed, and without a terminal nobody can be asked: give --password-file FILE (-: standard input).',
    ),
  );
  writeFileSync(author.at('wrong'), 'open says me\n');
  expect(await sign('--password-file', 'wrong')).toEqual(
    refused('That is not the password of this secret key, or the file is damaged.', 1),
  );
  expect(await sign('--password-file', 'nowhere')).toEqual(
    refused('The password file nowhere cannot be read (ENOENT).'),
  );
  const piped = await author.aegis(
    ['artifacts', 'sign', BUNDLE, '--key', 'locked.key', '-o', 'locked.minisig', '--password-file', '-'],
    { stdin: 'open sesame\n' },
  );
  expect(piped).toMatchObject({ code: 0, stderr: '' });
  expect(
    await artifacts('verify', BUNDLE, '--signature', 'locked.minisig', '--public-key', 'locked.pub'),
  ).toMatchObject({
    code: 0,
  });
});

test('sign refuses', async () => {
  expect(await artifacts('sign', BUNDLE)).toEqual(refused('Name the key that signs: --key FILE.key, or --vault NAME.'));
  expect(await artifacts('sign', BUNDLE, '--key', 'release.key', '--vault', 'x')).toEqual(
    refused('Name the key that signs: --key FILE.key, or --vault NAME.'),
  );
  expect(await artifacts('sign', BUNDLE, '--key', 'nowhere.key')).toEqual(
    refused("nowhere.key is not there. Make one with 'aegis access keys create' or 'minisign -G'."),
  );
  expect(await artifacts('sign', BUNDLE, '--key', 'release.pub')).toEqual(
    refused('That is a public key. Give the secret one, the .key file.'),
  );
  expect(await artifacts('sign', 'nowhere.tar.zst', '--key', 'release.key')).toEqual(
    refused("nowhere.tar.zst is not there. Name a bundle that 'aegis artifacts pack' made."),
  );
  writeFileSync(author.at('cut.tar.zst'), readFileSync(author.at(BUNDLE)).subarray(0, -9));
  const cut = await artifacts('sign', 'cut.tar.zst', '--key', 'release.key', '--json');
  expect({ code: cut.code, error: JSON.parse(cut.stderr).error.code }).toEqual({
    code: 2,
    error: 'artifacts.bad_bundle',
  });
});

test('verify refuses', async () => {
  await artifacts('sign', BUNDLE, '--key', 'release.key');
  const verify = (...more: string[]) => artifacts('verify', BUNDLE, ...more);
  copyFileSync(author.at(BUNDLE), author.at('bare.tar.zst'));
  expect(await artifacts('verify', 'bare.tar.zst', '--public-key', 'release.pub')).toEqual(
    refused(
      "bare.tar.zst has no signature beside it: bare.tar.zst.minisig is not there. Name it with --signature, or sign with 'aegis artifacts sign'.",
      1,
    ),
  );
  author.newKey('other');
  expect(await verify('--public-key', 'other.pub')).toEqual(
    refused(
      `The signature was made with the key ${idOf('release.pub')}, which this fleet does not trust for artifacts: see 'aegis access keys list', or add it with 'aegis access keys add'.`,
      1,
    ),
  );
  await author.build('other');
  await artifacts('pack', 'other', '-o', 'other.tar.zst');
  copyFileSync(author.at(`${BUNDLE}.minisig`), author.at('other.tar.zst.minisig'));
  expect(await artifacts('verify', 'other.tar.zst', '--public-key', 'release.pub')).toEqual(
    refused('The signature does not fit these bytes: they were changed, or it was made for others.', 1),
  );
  execFileSync('minisign', ['-S', '-s', 'release.key', '-m', BUNDLE, '-x', 'plain.minisig', '-t', 'mine'], {
    cwd: author.folder,
  });
  expect(await verify('--signature', 'plain.minisig', '--public-key', 'release.pub')).toEqual(
    refused(
      'The signature is good, but not one for an artifact: its trusted comment has to be "aegis-artifact-1 name=NAME version=VERSION time=TIME". \'aegis artifacts sign\' writes it.',
      1,
    ),
  );
  expect(await verify('--public-key', 'release.key')).toMatchObject({ code: 2 });
  expect(await verify('--public-key', 'nowhere.pub')).toEqual(
    refused('nowhere.pub is not there. Give --public-key the .pub file of a key.'),
  );
  appendFileSync(author.at('bare.tar.zst'), 'x');
  const trailing = await artifacts(
    'verify',
    'bare.tar.zst',
    '--signature',
    'plain.minisig',
    '--public-key',
    'release.pub',
    '--json',
  );
  expect({ code: trailing.code, error: JSON.parse(trailing.stderr).error.code }).toEqual({
    code: 2,
    error: 'artifacts.bad_bundle',
  });
  chmodSync(author.at('other.pub'), 0o644);
});
