import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, listKeys, showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, privateKeyToPem } from '@aegis/protocol/access/keys';
import { readTrustPayload, rootFingerprintOf } from '@aegis/protocol/access/trust-bundle';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile, refused } from './cli-process.ts';

/** `aegis access trust`, `access keys rotate`, `server rotate-key` and `server init --root-key-out`, with the real server. */

const cli = cliOfFile();
let server: TestServer;
let folder: string;
let env: Record<string, string>;
beforeAll(async () => {
  server = await startTestServer();
  const { token } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  folder = mkdtempSync(join(tmpdir(), 'aegis-trust-cli-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await server?.close();
});

const at = (name: string): string => join(folder, name);
const run = (...args: string[]) => cli.text(args, { env });
const good = async (...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await run(...args);
  if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  return stdout;
};
const json = async (...args: string[]) => JSON.parse(await good(...args, '--json')) as Record<string, unknown>;
const current = async () => {
  const { trust_bundle } = await server.as('anyone').call(showTrust);
  return readTrustPayload(trust_bundle.payload);
};
const made = (name: string) => json('access', 'keys', 'create', name, '--out', folder, '--no-password');

test('operators’ keys are listed with person and scope, and rotated in one step', async () => {
  const alice = await made('alice');
  expect(
    await good(
      ...['access', 'keys', 'add', at('alice.pub'), '--usage', 'operate', '--usage', 'artifacts', '--person', 'alice'],
      ...['--scope', 'site=fra', '--kind', 'command.run', '--kind', 'command.cancel'],
    ),
  ).toBe(`id:     ${alice.minisign_id}
name:   alice
person: alice
usage:  operate, artifacts
scope:  site=fra
kinds:  command.run, command.cancel
state:  active
key id: ${alice.keyid}
`);
  const rotated = await json(
    ...['access', 'keys', 'rotate', String(alice.minisign_id), 'alice2', '--out', folder, '--no-password', '--yes'],
  );
  expect(rotated).toEqual({
    key_file: at('alice2.key'),
    public_key_file: at('alice2.pub'),
    minisign_id: expect.stringMatching(/^[0-9A-F]{16}$/),
    keyid: expect.stringMatching(/^[0-9a-f]{64}$/),
    revoked: alice.keyid,
    trust_version: 3,
    draft: null,
  });
  expect(statSync(at('alice2.key')).mode & 0o777).toBe(0o600);
  const { items } = await server.as('viewer').call(listKeys);
  expect(
    items.slice(1).map(({ name, person, usage, scope, state }) => ({ name, person, usage, scope, state })),
  ).toEqual(
    ['alice', 'alice2'].map((name) => ({
      name,
      person: 'alice',
      usage: ['operate', 'artifacts'],
      scope: { kinds: ['command.run', 'command.cancel'], selector: 'site=fra' },
      state: name === 'alice' ? 'revoked' : 'active',
    })),
  );
  // The stock program signs with the new one.
  writeFileSync(at('bytes'), 'bytes');
  for (const args of [
    ['-S', '-s', 'alice2.key', '-m', 'bytes'],
    ['-V', '-p', 'alice2.pub', '-m', 'bytes'],
  ])
    expect(spawnSync('minisign', args, { cwd: folder, encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
  const rotate = (...args: string[]) =>
    run('access', 'keys', 'rotate', ...args, '--out', folder, '--no-password', '-y');
  expect(await rotate('nobody', 'x')).toEqual(
    refused("'nobody' names no key. 'aegis access keys list' shows each with its id.", 1),
  );
  expect(await rotate(String(alice.minisign_id), 'x')).toEqual(
    refused(
      `${alice.minisign_id} (alice) is revoked already. Make a key with 'aegis access keys create', and add it.`,
      1,
    ),
  );
  expect(await rotate(String(items[0]?.keyid), 'x')).toEqual(
    refused("That is a server's own key: 'aegis server rotate-key' replaces it.", 1),
  );
  expect(await run('access', 'keys', 'add', at('alice2.pub'))).toEqual(
    refused('Say what the key may do: --usage operate, artifacts or release.'),
  );
  expect(existsSync(at('x.key'))).toBe(false);
});

test('with the root key elsewhere: drafted, shown, signed without a network, published', async () => {
  const pem = join(server.dataDir, 'keys', 'root.pem');
  const root = at('root.pem');
  renameSync(pem, root);
  const { root_fingerprint } = await json('access', 'trust', 'show');
  const bob = await made('bob');
  const before = await current();
  const draft = at('change.json');
  expect(
    await good(
      ...['access', 'trust', 'draft', '--add', at('bob.pub'), '--usage', 'operate', '--person', 'bob', '--out', draft],
      ...['--lifetime', '365d'],
    ),
  ).toBe(`${draft}: 0 of 1 signatures of the root are there\n`);
  expect(await run('access', 'trust', 'publish', draft)).toEqual(
    refused(`${draft}: 0 of 1 signatures of the root are there. Have it signed with 'aegis access trust sign'.`, 1),
  );
  const sign = (...args: string[]) =>
    cli.text(['access', 'trust', 'sign', draft, ...args], { env: { AEGIS_SERVER: 'http://127.0.0.1:1' } });
  expect(await sign('--key', root, '--root', 'f'.repeat(64), '--yes')).toEqual(
    refused(
      `This draft is of the root ${root_fingerprint}, not of the one that --root names. Find out who made it.`,
      1,
    ),
  );
  const notAsked = await sign('--key', root);
  expect([notAsked.code, notAsked.stderr]).toEqual([
    2,
    'aegis: Without a terminal nobody can be asked: add --yes if it is meant.\n',
  ]);
  const after = readTrustPayload((JSON.parse(readFileSync(draft, 'utf8')) as { payload: string }).payload);
  expect(await sign('--key', root, '--root', String(root_fingerprint), '--yes')).toEqual({
    code: 0,
    stdout: `root fingerprint ${root_fingerprint}
fleet ${before.fleet}, version 3 → 4
expires ${after.expires_at} (now ${before.expires_at})
root 1 of 1 (${root_fingerprint})
+ bob (${bob.keyid}, minisign ${bob.minisign_id}) of bob: operate
`,
    stderr: 'aegis: all signatures are there.\n',
  });
  expect(await good('access', 'trust', 'publish', draft)).toBe(await good('access', 'trust', 'publish', draft));
  expect((await current()).version).toBe(4);
  const shown = await good('access', 'trust', 'show');
  expect(shown).toMatch(/^version: {10}4, issued /m);
  // A change by one command leaves a draft, or says that it cannot.
  expect(await run('server', 'rotate-key', '--yes')).toEqual(
    refused(
      "0 of 1 signatures of the root are there, and without it nothing changes. Give --out FILE, have the file signed ('aegis access trust sign') and publish it.",
      1,
    ),
  );
  await good('server', 'rotate-key', '--overlap', '0', '--out', at('rotate.json'), '--yes');
  await good('access', 'trust', 'sign', at('rotate.json'), '--key', root, '--yes');
  expect(await json('access', 'trust', 'publish', at('rotate.json'))).toMatchObject({ trust_version: 5 });
  // The root itself, to two persons, with what is at hand.
  await made('carol');
  const pubs = ['bob', 'carol'].flatMap((name) => ['--root-key', `${name}=${at(`${name}.pub`)}`]);
  const rotateRoot = (...args: string[]) =>
    run('access', 'trust', 'rotate-root', ...pubs, '--threshold', '2', '--yes', ...args);
  expect((await rotateRoot('--sign-with', root, '--sign-with', at('bob.key'), '--out', at('root.json'))).stdout).toBe(
    `${at('root.json')} has to be signed by the others ('aegis access trust sign')\n`,
  );
  expect((await run('access', 'trust', 'sign', at('root.json'), '--key', at('alice2.key'), '--yes')).stderr).toMatch(
    /is none of the root's, neither of the present one nor of the next\. Sign with one of those\.\n$/,
  );
  expect(await good('access', 'trust', 'sign', at('root.json'), '--key', at('carol.key'), '--yes')).toMatch(
    /^! root 1 of 1 .*\n {2}becomes 2 of 2 \(bob [0-9a-f]{64}, carol [0-9a-f]{64}\)$/m,
  );
  const published = await json('access', 'trust', 'publish', at('root.json'));
  expect(published).toMatchObject({ trust_version: 6, root_fingerprint: rootFingerprintOf((await current()).root) });
  // And back to one that the server keeps: as much as both say.
  const back = run('access', 'trust', 'rotate-root', '--on-server', '--yes');
  expect((await back).stderr).toMatch(/^aegis: The root key is kept away from this server/);
});

describe('what is refused', () => {
  test('of drafts', async () => {
    writeFileSync(at('no.json'), '{}');
    writeFileSync(at('public.key'), privateKeyToPem(generateKeyPair().privateKey), { mode: 0o644 });
    writeFileSync(at('broken.pem'), '-----BEGIN PRIVATE KEY-----\nx\n', { mode: 0o600 });
    await good('access', 'trust', 'draft', '--out', at('again.json'));
    const draft = (...args: string[]) => run('access', 'trust', 'draft', ...args);
    const sign = (...args: string[]) => run('access', 'trust', 'sign', ...args, '--yes');
    const rotate = (...args: string[]) => run('access', 'trust', 'rotate-root', ...args, '--yes');
    const told = await Promise.all([
      draft('--out', at('again.json')),
      draft('--out', at('no/where.json')),
      draft('--add', at('bob.pub'), '--out', at('x.json')),
      draft('--usage', 'operate', '--out', at('x.json')),
      draft('--add', '-', '--usage', 'operate', '--out', at('x.json')),
      draft('--lifetime', '1h', '--out', at('x.json')),
      draft('--merge', '3', '--out', at('x.json')),
      run('access', 'trust', 'publish', at('no.json')),
      run('access', 'trust', 'publish', at('gone.json')),
      sign('-', '--key', at('public.key')),
      sign(at('again.json'), '--key', at('public.key')),
      sign(at('again.json'), '--key', at('broken.pem')),
      sign(at('again.json'), '--key', at('gone.key')),
      sign(at('again.json'), '--key', at('alice2.key'), '--root', 'x'),
      rotate(),
      rotate('--root-key', at('bob.pub'), '--root-key', `bob=${at('bob.pub')}`),
      rotate('--root-key', at('gone.pub')),
      rotate('--on-server', '--threshold', '2'),
      rotate('--root-key', at('bob.pub'), '--sign-with', at('gone.key')),
      run('access', 'keys', 'add', at('bob.pub'), '--usage', 'artifacts', '--scope', 'site=fra'),
      run('access', 'keys', 'add', at('bob.pub'), '--usage', 'operate', '--scope', 'site='),
      run('server', 'rotate-key', '--overlap', '91d', '--yes'),
      run('server', 'rotate-key'),
    ]);
    expect(told.map(({ code, stderr }) => `${code} ${stderr.trimEnd()}`)).toEqual([
      `2 aegis: ${at('again.json')} is there already: name a new file with --out.`,
      `2 aegis: ${at('no/where.json')} cannot be made (ENOENT): choose another place with --out.`,
      '2 aegis: --add and --usage belong together: say of each key what it may do.',
      '2 aegis: --add and --usage belong together: say of each key what it may do.',
      '2 aegis: A draft takes keys from files: give each --add a .pub file.',
      '2 aegis: --lifetime 1h: give a time of at least a day, as in 365d.',
      "2 aegis: --merge 3: give VERSION:DIGEST, as a node's log shows it.",
      `2 aegis: ${at('no.json')} is no draft of a trust bundle. Make one with 'aegis access trust draft'.`,
      `2 aegis: ${at('gone.json')} cannot be read (ENOENT). Name a draft.`,
      '2 aegis: The signature is added to the file of the draft: name one.',
      expect.stringMatching(/can be read by others, and it is a secret key\. Run: chmod 600/),
      expect.stringMatching(/broken\.pem is damaged, or no Ed25519 key\.$/),
      expect.stringMatching(/gone\.key cannot be read \(ENOENT\)/),
      "2 aegis: --root: give the 64 digits that 'aegis access trust show' or init showed.",
      '2 aegis: Say what the new root is: --root-key FILE, as often as needed, or --on-server.',
      '2 aegis: That is no root: a root key stands there twice. Give each key once, a person to all or to none of them, and a threshold of at most as many.',
      `2 aegis: ${at('gone.pub')} cannot be read (ENOENT). Name the .pub file of a key.`,
      expect.stringMatching(/--on-server/),
      `2 aegis: The key file ${at('gone.key')} cannot be read (ENOENT).`,
      "2 aegis: A scope bounds what a key of usage 'operate' may order. Leave it out, or give that usage.",
      expect.stringMatching(/^2 aegis: /),
      '2 aegis: --overlap 91d: give 0, or a time of at most 90 days, as in 12h.',
      '2 aegis: Without a terminal nobody can be asked: add --yes if it is meant.',
    ]);
    const tampered = JSON.parse(readFileSync(at('again.json'), 'utf8')) as { payload: string };
    const payload = { ...(JSON.parse(atob(tampered.payload)) as object), version: 99 };
    writeFileSync(at('far.json'), JSON.stringify({ ...tampered, payload: btoa(JSON.stringify(payload)) }));
    expect(await sign(at('far.json'), '--key', at('bob.key'))).toEqual(
      refused(`${at('far.json')} does not follow from the version that it says: make another draft.`),
    );
  });
});

describe('init --root-key-out', () => {
  const init = (...args: string[]) => cli.text(['server', 'init', ...args]);

  test('puts the root key there and nowhere else, and the fleet works without it', async () => {
    const dataDir = at('fleet');
    const out = at('fleet-root.pem');
    const { code, stdout } = await init('--data-dir', dataDir, '--root-key-out', out, '--json');
    expect(code).toBe(0);
    const told = JSON.parse(stdout) as { root_fingerprint: string };
    expect(told).toMatchObject({ created: true, root_key: out, data_dir: dataDir });
    expect(statSync(out).mode & 0o777).toBe(0o600);
    expect(readdirSync(join(dataDir, 'keys')).sort()).toEqual(['secrets.json', 'server.pem']);
    const secret = readFileSync(out, 'utf8');
    for (const name of readdirSync(dataDir, { recursive: true, encoding: 'utf8' })) {
      const path = join(dataDir, name);
      if (statSync(path).isFile()) expect(readFileSync(path, 'latin1')).not.toContain(secret.split('\n')[1]);
    }
    expect(await init('--data-dir', dataDir, '--root-key-out', at('another.pem'))).toEqual(
      refused(
        `${dataDir} holds a fleet already, and its root key is where it was put. 'aegis access trust rotate-root' puts another in its place.`,
      ),
    );
    expect(existsSync(at('another.pem'))).toBe(false);
    await using away = await startTestServer({ dataDir });
    const { token } = await away.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
    const own = { AEGIS_SERVER: away.url, AEGIS_TOKEN: token };
    const aegis = async (...args: string[]) => expect((await cli.text(args, { env: own })).code).toBe(0);
    await aegis('access', 'trust', 'draft', '--out', at('first.json'));
    await aegis('access', 'trust', 'sign', at('first.json'), '--key', out, '--root', told.root_fingerprint, '--yes');
    await aegis('access', 'trust', 'publish', at('first.json'));
  });

  test('refuses what is there, what is within, and what is no file', async () => {
    writeFileSync(at('there.pem'), 'mine');
    mkdirSync(at('real'));
    symlinkSync(at('real'), at('linked'));
    symlinkSync(at('nowhere'), at('dangling.pem'));
    const told = [
      await init('--data-dir', at('f1'), '--root-key-out', '-'),
      await init('--data-dir', at('f1'), '--root-key-out', at('there.pem')),
      await init('--data-dir', at('f1'), '--root-key-out', at('dangling.pem')),
      await init('--data-dir', at('f1'), '--root-key-out', join(at('f1'), 'root.pem')),
      await init('--data-dir', at('linked'), '--root-key-out', join(at('real'), 'root.pem')),
      await init('--data-dir', at('f1'), '--root-key-out', at('no/root.pem')),
      await init('--data-dir', at('f1'), '--fleet', '!', '--root-key-out', at('unused.pem')),
    ];
    const taken = (name: string) =>
      `2 aegis: ${at(name)} is there already, and a key is never written over: name another file. One that an init left which broke off may go.`;
    expect(told.map(({ code, stderr }) => `${code} ${stderr.trimEnd()}`)).toEqual([
      '2 aegis: The root key is not written to a terminal or a pipe, where it would stay who knows where: name a file with --root-key-out.',
      taken('there.pem'),
      taken('dangling.pem'),
      `2 aegis: ${join(at('f1'), 'root.pem')} is in the data directory, where the root key shall not be: name another place.`,
      `2 aegis: ${join(at('real'), 'root.pem')} is in the data directory, where the root key shall not be: name another place.`,
      `2 aegis: ${at('no/root.pem')} cannot be made (ENOENT): name another place with --root-key-out.`,
      expect.stringMatching(/'!' is no fleet name/),
    ]);
    expect([existsSync(at('unused.pem')), existsSync(at('nowhere')), readFileSync(at('there.pem'), 'utf8')]).toEqual([
      false,
      false,
      'mine',
    ]);
  });
});
