import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, keyIdOf } from '@aegis/protocol/access/keys';
import { parseMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { parseMinisignSecretKey } from '@aegis/protocol/access/minisign-secret-key';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile, refused } from './cli-process.ts';

/** `aegis access keys` with the real server, and with the stock minisign beside it. */

const cli = cliOfFile();
let server: TestServer;
let folder: string;
let env: Record<string, string>;
beforeAll(async () => {
  server = await startTestServer();
  const { token } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  folder = mkdtempSync(join(tmpdir(), 'aegis-keys-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await server?.close();
});

const keys = (args: readonly string[], stdin = '') => cli.text(['access', 'keys', ...args], { env, stdin });
const minisign = (...args: string[]): void => {
  const { status, stderr, error } = spawnSync('minisign', args, { cwd: folder, encoding: 'utf8' });
  if (error)
    throw new Error("this test needs minisign: install the Debian package 'minisign' ('bin/setup --test' does)");
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
};
const at = (name: string): string => join(folder, name);
const modeOf = (name: string): string => (statSync(at(name)).mode & 0o777).toString(8);

test('a key from its making to its end', async () => {
  const made = await keys(['create', 'release', '--out', folder, '--no-password']);
  const { minisignId, raw: ofRelease } = parseMinisignPublicKey(readFileSync(at('release.pub'), 'utf8'));
  expect(made).toEqual({
    code: 0,
    stdout: `secret key: ${at('release.key')} (without a password)\npublic key: ${at('release.pub')}\nid:         ${minisignId}\nkey id:     ${keyIdOf(ofRelease)}\n`,
    stderr: `aegis: 'aegis access keys add ${at('release.pub')} --usage artifacts' lets it sign artifacts, '--usage operate --person YOU' your orders.\n`,
  });
  expect([modeOf('release.key'), modeOf('release.pub')]).toEqual(['600', '644']);
  writeFileSync(at('bundle'), 'bytes');
  minisign('-S', '-s', 'release.key', '-m', 'bundle');
  minisign('-V', '-p', 'release.pub', '-m', 'bundle');

  const added = await keys(['add', at('release.pub'), '--usage', 'artifacts', '--person', 'Alice Ö.', '--json']);
  const key = JSON.parse(added.stdout);
  expect(key).toMatchObject({
    minisign_id: minisignId,
    name: 'release',
    person: 'Alice Ö.',
    usage: ['artifacts'],
    state: 'active',
  });
  const raw = generateKeyPair();
  const fromVault = await keys(
    ['add', '-', '--usage', 'artifacts', '--name', 'vault'],
    `${raw.publicRaw.toString('base64')}\n`,
  );
  const short = raw.keyId.slice(0, 16);
  expect(fromVault).toEqual({
    code: 0,
    stdout: `id:     ${short}\nname:   vault\nusage:  artifacts\nstate:  active\nkey id: ${raw.keyId}\n`,
    stderr: '',
  });
  expect(await keys(['revoke', minisignId, '--yes'])).toEqual({
    code: 0,
    stdout: `${minisignId} (release) is revoked\n`,
    stderr: '',
  });
  expect(JSON.parse((await keys(['revoke', short, '-y', '--json'])).stdout)).toMatchObject({ state: 'revoked' });
  const [, server_] = (await keys(['list'])).stdout.split('\n');
  expect((await keys(['list'])).stdout).toBe(
    `ID                NAME     PERSON    USAGE      STATE
${server_}
${minisignId}  release  Alice Ö.  artifacts  revoked
${short}  vault              artifacts  revoked
`,
  );
  expect(server_).toMatch(/^[0-9a-f]{16} {2}server {13}serve {6}active$/);
  const listed = JSON.parse((await keys(['list', '--json'])).stdout);
  expect(listed).toMatchObject({ trust_version: 5, keys: [{ name: 'server' }, { ...key, state: 'revoked' }, {}] });
});

test('a key under a password: from a file or standard input, never shown', async () => {
  const { stdout, code } = await keys(
    ['create', 'sealed', '--out', folder, '--password-file', '-', '--json'],
    'correct horse\nsecond line\n',
  );
  expect(code).toBe(0);
  const told = JSON.parse(stdout);
  expect(told).toEqual({
    name: 'sealed',
    key_file: at('sealed.key'),
    public_key_file: at('sealed.pub'),
    minisign_id: expect.stringMatching(/^[0-9A-F]{16}$/),
    keyid: expect.stringMatching(/^[0-9a-f]{64}$/),
    public_key: readFileSync(at('sealed.pub'), 'utf8').split('\n')[1],
    encrypted: true,
  });
  const secret = await parseMinisignSecretKey(readFileSync(at('sealed.key'), 'utf8'), 'correct horse');
  expect(secret.keyId).toBe(told.keyid);
});

test('on a terminal the password is asked for twice and not shown', async () => {
  const home = mkdtempSync(join(folder, 'terminal-'));
  const socket = join(home, 'tmux.sock');
  const tmux = (...args: string[]): string =>
    execFileSync('tmux', ['-u', '-f', '/dev/null', '-S', socket, ...args], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, HOME: home, TERM: 'xterm-256color' },
    });
  const screen = () =>
    tmux('capture-pane', '-p', '-J')
      .split('\n')
      .map((line) => line.trimEnd())
      .filter(Boolean);
  const shows = (text: string) =>
    waitFor(
      `"${text}" on the screen`,
      () => screen().some((line) => line.includes(text)),
      30_000,
      () => screen().join('\n'),
    );
  const run = `${process.execPath} ${join(cli.dist, 'aegis.cjs')} access keys create`;
  tmux('new-session', '-d', '-x', '120', '-y', '40', '-c', home, 'sh');
  try {
    tmux('send-keys', `${run} one; echo ended: $?`, 'Enter');
    await shows('New password of one:');
    tmux('send-keys', 'hunter2', 'Enter');
    await shows('The same again:');
    tmux('send-keys', 'hunter3', 'Enter');
    await shows('The two passwords differ; nothing was written. Try again.');
    await shows('ended: 1');
    tmux('send-keys', 'clear', 'Enter');
    tmux('send-keys', `${run} two; echo ended: $?`, 'Enter');
    await shows('New password of two:');
    tmux('send-keys', 'C-c');
    await shows('ended: 130');
    tmux('send-keys', 'clear', 'Enter');
    tmux('send-keys', `${run} three; echo ended: $?`, 'Enter');
    await shows('New password of three:');
    tmux('send-keys', 'hunter2', 'Enter');
    await shows('The same again:');
    tmux('send-keys', 'hunter2', 'Enter');
    await shows('ended: 0');
    expect(tmux('capture-pane', '-p', '-S', '-1000')).not.toMatch(/hunter/);
    expect(readdirSync(home).filter((name) => /\.(key|pub)$/.test(name))).toEqual(['three.key', 'three.pub']);
    await parseMinisignSecretKey(readFileSync(join(home, 'three.key'), 'utf8'), 'hunter2');
  } finally {
    tmux('kill-server');
  }
});

test('refusals leave nothing behind and send nothing', async () => {
  writeFileSync(at('taken.pub'), 'mine');
  writeFileSync(at('nonsense.pub'), 'nonsense');
  writeFileSync(at('large.pub'), 'x'.repeat(20_000));
  execFileSync('ln', ['-s', '/nowhere', at('link.key')]);
  const secret = ['create', 'secret', '--out', folder, '--no-password'];
  expect((await keys(secret)).code).toBe(0);
  const before = (await keys(['list', '--json'])).stdout;
  const create = (name: string, ...more: string[]) => keys(['create', name, '--out', folder, ...more]);
  const add = (file: string, ...more: string[]) => keys(['add', at(file), '--usage', 'artifacts', ...more]);
  const again = 'and a key is never written over: choose another name or folder.';
  const told = [
    await create('taken', '--no-password'),
    await create('link', '--no-password'),
    await keys(secret),
    await keys(['create', 'x', '--out', at('nowhere'), '--no-password']),
    await create('../x', '--no-password'),
    await create('x'),
    await create('x', '--password-file', at('nowhere')),
    await keys(['create', 'x', '--out', folder, '--password-file', '-'], '\n'),
    await add('secret.key'),
    await add('nonsense.pub'),
    await add('large.pub'),
    await add('missing.pub'),
    await keys(['add', '-', '--usage', 'artifacts'], readFileSync(at('secret.pub'), 'utf8')),
    await keys(['revoke', 'ABCD']),
    await keys(['revoke', 'ABCD', '--yes']),
  ];
  expect(told).toEqual([
    refused(`${at('taken.pub')} is there already, ${again}`),
    refused(`${at('link.key')} is there already, ${again}`),
    refused(`${at('secret.key')} is there already, ${again}`),
    refused(`${at('nowhere/x.key')} cannot be made (ENOENT): choose another folder with --out.`),
    refused("'../x' cannot name a key: use 1 to 64 of A-Z a-z 0-9 . _ -, and --out for the folder."),
    refused(
      'A password is needed, and without a terminal nobody can be asked: give --password-file FILE (-: standard input).',
    ),
    refused(`The password file ${at('nowhere')} cannot be read (ENOENT).`),
    refused('The password is empty. --no-password makes a key without one.', 1),
    refused('That is not a public key: it looks like a secret key or a signature. Give the .pub file.'),
    refused('The key is not the base64 of 42 bytes, as a minisign public key is. Give the .pub file.'),
    refused(`${at('large.pub')} is far too large for a public key. Name the .pub file of a key.`),
    refused(`${at('missing.pub')} cannot be read (ENOENT). Name the .pub file of a key.`),
    refused('A key from standard input has no name yet: give --name.'),
    refused('Without a terminal nobody can be asked: add --yes if it is meant.'),
    refused("There is no key 'ABCD'. 'aegis access keys list' shows each with its id.", 1),
  ]);
  expect((await keys(['create', 'x', '--no-password', '--password-file', '-'])).code).toBe(2);
  expect((await keys(['add', at('secret.pub')])).stderr).toBe(
    'aegis: Say what the key may do: --usage operate, artifacts or release.\n',
  );
  expect((await keys(['list', '--json'])).stdout).toBe(before);
  expect(existsSync(at('x.key')) || existsSync(at('taken.key'))).toBe(false);
  expect(readFileSync(at('taken.pub'), 'utf8')).toBe('mine');
});

test('without the root key on the server nothing changes, and the sentence says what to do', async () => {
  expect((await keys(['create', 'late', '--out', folder, '--no-password'])).code).toBe(0);
  const root = join(server.dataDir, 'keys/root.pem');
  const pem = readFileSync(root, 'utf8');
  rmSync(root);
  expect(await keys(['add', at('late.pub'), '--usage', 'artifacts'])).toEqual(
    refused(
      "The root key is kept away from this server, and without it the keys that nodes trust do not change: nothing was changed. Put it back as keys/root.pem in the data directory (mode 0600), ask again, and take it away, or change it where the key is: 'aegis access trust draft' here, 'aegis access trust sign' there, 'aegis access trust publish'.",
      1,
    ),
  );
  writeFileSync(root, pem, { mode: 0o600 });
  expect((await keys(['add', at('late.pub'), '--usage', 'artifacts'])).code).toBe(0);
});
