import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { formatMinisignPublicKey, parseMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { formatMinisignSecretKey, generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import { ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { validate } from '@aegis/protocol/validation';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ArtifactFolder, artifactFolder, make } from './artifact-folder.ts';

/** What an author does on his own machine, with the real compiler, the real loader and the stock minisign. */

let author: ArtifactFolder;
beforeAll(async () => {
  author = await artifactFolder();
  await author.build('block-icmp');
  expect(await author.aegis(['artifacts', 'pack', 'block-icmp'])).toMatchObject({ code: 0, stderr: '' });
  execFileSync('minisign', ['-G', '-W', '-p', author.at('release.pub'), '-s', author.at('release.key')]);
});
afterAll(() => author?.[Symbol.dispose]());

const BUNDLE = 'block-icmp-1.0.0.tar.zst';
const sha256 = (file: string) =>
  createHash('sha256')
    .update(readFileSync(author.at(file)))
    .digest('hex');
const artifacts = (...args: string[]) => author.aegis(['artifacts', ...args]);
const refused = (sentence: string, code = 2) => ({ code, stdout: '', stderr: `aegis: ${sentence}\n` });
/** Not as the stock program's comment says it: there an id has no leading zeros. */
const idOf = (pub: string) => parseMinisignPublicKey(readFileSync(author.at(pub), 'utf8')).minisignId;

test.each(['tc', 'xdp', 'cgroup_skb', 'tracepoint'])(
  'a %s template builds without a warning and packs',
  async (kind) => {
    const name = `t-${kind.replace('_', '-')}`;
    const file = name.replaceAll('-', '_');
    const made = await artifacts('init', name, '--kind', kind);
    const files = [`${file}.bpf.c`, 'aegis.json', 'aegis.schema.json', 'Makefile', 'README.md', '.gitignore'];
    expect(made).toEqual({
      code: 0,
      stdout: files.map((one) => `${name}/${one}\n`).join(''),
      stderr: `aegis: made. Build it with 'make -C ${name}', then 'aegis artifacts pack ${name}'.\n`,
    });
    expect(readdirSync(author.at(name)).sort()).toEqual([...files].sort());
    const manifest: unknown = JSON.parse(readFileSync(author.at(`${name}/aegis.json`), 'utf8'));
    expect(validate(ManifestSource, manifest, 'aegis.json')).toMatchObject({ ok: true });
    make(author.at(name));
    const packed = await artifacts('pack', name, '--json');
    expect({ ...packed, stdout: JSON.parse(packed.stdout) }).toMatchObject({
      code: 0,
      stderr: '',
      stdout: {
        file: `${name}-1.0.0.tar.zst`,
        name,
        version: '1.0.0',
        sha256: sha256(`${name}-1.0.0.tar.zst`),
        checked: true,
      },
    });
  },
);

test('a name becomes a C file, and a folder of its own choice', async () => {
  const { code, stdout } = await artifacts('init', 'my.own_one', '--dir', 'deep/er', '--json');
  expect({ code, ...JSON.parse(stdout) }).toEqual({
    code: 0,
    name: 'my.own_one',
    kind: 'tc',
    folder: 'deep/er',
    files: ['my_own_one.bpf.c', 'aegis.json', 'aegis.schema.json', 'Makefile', 'README.md', '.gitignore'],
  });
});

test('the same source gives the same bytes, wherever it lies', async () => {
  mkdirSync(author.at('elsewhere'));
  const { code } = await artifacts('init', 'block-icmp', '--dir', 'elsewhere/block-icmp');
  expect(code).toBe(0);
  make(author.at('elsewhere/block-icmp'));
  await artifacts('pack', 'elsewhere/block-icmp/aegis.json', '-o', 'elsewhere/again.tar.zst');
  expect(sha256('elsewhere/again.tar.zst')).toBe(sha256(BUNDLE));
});

test('init refuses', async () => {
  expect(await artifacts('init', 'Block')).toEqual(
    refused("'Block': an artifact name has 1–63 of a-z 0-9 . _ - and starts with a letter or digit."),
  );
  writeFileSync(author.at('Makefile'), 'mine');
  expect(await artifacts('init', 'x', '--dir', '.')).toEqual(
    refused('Makefile is there already and stays as it is. Choose another folder with --dir.'),
  );
  expect(readFileSync(author.at('Makefile'), 'utf8')).toBe('mine');
  expect(await artifacts('init', 'x', '--dir', 'Makefile/x')).toEqual(
    refused('Makefile/x cannot be written (ENOTDIR). Choose another folder with --dir.'),
  );
  expect((await artifacts('init', 'x', '--kind', 'lsm')).stderr).toBe(
    'aegis: Expected --kind=lsm to be one of: tc, xdp, cgroup_skb, tracepoint. See --help.\n',
  );
});

test('inspect shows what is in a bundle, and in an object', async () => {
  const shown = await artifacts('inspect', BUNDLE);
  const object = 'block-icmp/block_icmp.bpf.o';
  const plain = (text: string) =>
    text
      .replaceAll(sha256(BUNDLE), '<bundle>')
      .replaceAll(sha256(object), '<object>')
      .replace(/\d+\.?\d* KiB/g, '<size>')
      .replace(/(sched_cls {2})\d+/, '$1<count>');
  expect({ ...shown, stdout: plain(shown.stdout) }).toMatchSnapshot('bundle');
  const alone = await artifacts('inspect', object);
  expect({ ...alone, stdout: plain(alone.stdout) }).toMatchSnapshot('object');
  const { stdout } = await artifacts('inspect', BUNDLE, '--json');
  expect(JSON.parse(stdout)).toMatchObject({
    file: BUNDLE,
    kind: 'bundle',
    sha256: sha256(BUNDLE),
    manifest: { name: 'block-icmp', version: '1.0.0', programs: [{ name: 'drop_icmp' }] },
    objects: [
      {
        file: 'block_icmp.bpf.o',
        license: 'Dual MIT/GPL',
        btf: true,
        core_relocations: 0,
        needs_kernel_btf: false,
        programs: [{ name: 'drop_icmp', section: 'tc', type: 'sched_cls' }],
        maps: [{ name: 'dropped', type: 'array', key_bytes: 4, value_bytes: 16, max_entries: 1 }],
        globals: [{ name: 'target_ip', section: '.rodata', type: '__u32', bytes: 4 }],
        externs: [],
      },
    ],
    note: null,
  });
});

test('inspect refuses', async () => {
  expect(await artifacts('inspect', 'nowhere')).toEqual(
    refused("nowhere is not there. Name a bundle that 'aegis artifacts pack' made, or an object of the compiler."),
  );
  expect(await artifacts('inspect', 'block-icmp')).toEqual(
    refused("block-icmp is no file. Name a bundle that 'aegis artifacts pack' made, or an object of the compiler."),
  );
  writeFileSync(author.at('broken.o'), readFileSync(author.at('block-icmp/block_icmp.bpf.o')).subarray(0, 600));
  const broken = await artifacts('inspect', 'broken.o');
  expect(broken).toMatchObject({ code: 2, stdout: '' });
  expect(broken.stderr).toMatch(/^aegis: broken\.o is no eBPF object that can be loaded: .+\n$/);
  writeFileSync(author.at('text'), 'hello');
  const text = await artifacts('inspect', 'text', '--json');
  expect(JSON.parse(text.stderr)).toMatchObject({ error: { code: 'artifacts.bad_bundle' } });
  const without = await author.aegis(['artifacts', 'inspect', 'block-icmp/block_icmp.bpf.o'], {
    env: { AEGIS_NATIVE_DIR: '/nowhere' },
  });
  expect(without).toEqual(
    refused('Looking into objects needs the eBPF loader, which is not built here: run bin/setup.', 1),
  );
});

test('without the loader a bundle is packed and inspected all the same, and said so', async () => {
  const env = { AEGIS_NATIVE_DIR: '/nowhere' };
  const packed = await author.aegis(['artifacts', 'pack', 'block-icmp', '-o', 'blind.tar.zst', '--json'], { env });
  expect(JSON.parse(packed.stdout)).toMatchObject({ checked: false, sha256: sha256(BUNDLE) });
  const shown = await author.aegis(['artifacts', 'inspect', 'blind.tar.zst', '--json'], { env });
  expect(JSON.parse(shown.stdout)).toMatchObject({ manifest: { name: 'block-icmp' }, objects: [] });
  expect(shown.stderr).toBe(
    'aegis: the eBPF loader is not built here, so objects were not looked into. See bin/setup.\n',
  );
});

type Manifest = Record<string, never> & {
  programs: { name: string; attach: Record<string, unknown> }[];
  constants: { name: string; type: string; value: unknown }[];
  maps: { name: string }[];
  objects: Record<string, unknown>[];
};
test.each<[string, (manifest: Manifest) => unknown, string, string]>([
  [
    'an unknown program',
    ({ programs: [one] }) => Object.assign(one ?? {}, { name: 'drop_tcp' }),
    'artifacts.bad_object',
    "block_icmp.bpf.o has no program 'drop_tcp': it has drop_icmp. Correct aegis.json, or the program.",
  ],
  [
    'an unknown map',
    ({ maps: [one] }) => Object.assign(one ?? {}, { name: 'counters' }),
    'artifacts.bad_object',
    "block_icmp.bpf.o has no map 'counters': it has dropped. Correct aegis.json, or the program.",
  ],
  [
    'an unknown constant',
    ({ constants: [one] }) => Object.assign(one ?? {}, { name: 'target' }),
    'artifacts.unknown_constant',
    "block_icmp.bpf.o has no constant 'target': it has target_ip. Correct aegis.json, or the program.",
  ],
  [
    'a constant of another size',
    ({ constants: [one] }) => Object.assign(one ?? {}, { type: 'u64', value: 1 }),
    'artifacts.bad_constant',
    "The constant 'target_ip': A u64 of 8 bytes does not fit the variable, which has 4.",
  ],
  [
    'a missing object',
    ({ objects: [one] }) => Object.assign(one ?? {}, { from: 'build/none.o' }),
    'cli.usage',
    "odd/build/none.o is not there. Build it first ('make'), or correct aegis.json.",
  ],
  [
    'an object that is none',
    ({ objects: [one] }) => Object.assign(one ?? {}, { from: 'Makefile' }),
    'artifacts.bad_object',
    'block_icmp.bpf.o is no eBPF object that can be loaded: ',
  ],
  [
    'a wrong field',
    ({ programs: [one] }) => Object.assign(one?.attach ?? {}, { direction: 'sideways' }),
    'artifacts.bad_manifest',
    'odd/aegis.json: programs.0.attach.direction: Invalid option: expected one of "ingress"|"egress".',
  ],
  [
    'an unknown field',
    (manifest) => Object.assign(manifest, { progams: [] }),
    'artifacts.bad_manifest',
    'odd/aegis.json: it: Unrecognized key: "progams".',
  ],
])('pack refuses %s', async (_, change, code, sentence) => {
  mkdirSync(author.at('odd'), { recursive: true });
  for (const file of ['aegis.json', 'block_icmp.bpf.o', 'Makefile'])
    copyFileSync(author.at(`block-icmp/${file}`), author.at(`odd/${file}`));
  author.edit('odd/aegis.json', (manifest) => change(manifest as Manifest));
  const { code: exit, stdout, stderr } = await artifacts('pack', 'odd', '--json');
  const { error } = JSON.parse(stderr) as { error: { code: string; message: string } };
  expect({ exit, stdout, code: error.code }).toEqual({ exit: 2, stdout: '', code });
  expect(error.message.startsWith(sentence), error.message).toBe(true);
});

test('pack refuses what is no folder of an artifact, JSON that is none, and a place that cannot be written', async () => {
  expect(await artifacts('pack', 'nowhere')).toEqual(
    refused(
      "nowhere/aegis.json is not there. Name the artifact's folder, or make one with 'aegis artifacts init NAME'.",
    ),
  );
  mkdirSync(author.at('bad'));
  writeFileSync(author.at('bad/aegis.json'), '{"name": "x", "name": "y"}');
  const { code, stderr } = await artifacts('pack', 'bad');
  expect(code).toBe(2);
  expect(stderr).toMatch(/^aegis: bad\/aegis\.json is not JSON as it has to be: .+\. Correct it\.\n$/);
  expect(await artifacts('pack', 'block-icmp', '-o', 'no/such/place')).toEqual(
    refused('no/such/place cannot be written (ENOENT). Choose another with -o.'),
  );
});

test('pack refuses what no bundle may hold', async () => {
  mkdirSync(author.at('large'));
  copyFileSync(author.at('block-icmp/aegis.json'), author.at('large/aegis.json'));
  writeFileSync(author.at('large/block_icmp.bpf.o'), Buffer.alloc(16 * 1024 * 1024 + 1));
  expect(await artifacts('pack', 'large')).toEqual(
    refused('large/block_icmp.bpf.o has 16777217 bytes; at most 16777216 are allowed.'),
  );
});

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

test('a bundle is what the stock programs say that it is', () => {
  const tar = spawnSync('tar', ['--zstd', '-tf', BUNDLE], { cwd: author.folder, encoding: 'utf8' });
  expect({ status: tar.status, stdout: tar.stdout }).toEqual({
    status: 0,
    stdout: 'manifest.json\nblock_icmp.bpf.o\n',
  });
  expect(spawnSync('zstd', ['-tq', BUNDLE], { cwd: author.folder }).status).toBe(0);
  const sum = spawnSync('sha256sum', [BUNDLE], { cwd: author.folder, encoding: 'utf8' });
  expect(sum.stdout).toBe(`${sha256(BUNDLE)}  ${BUNDLE}\n`);
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
  execFileSync('minisign', ['-G', '-W', '-p', author.at('other.pub'), '-s', author.at('other.key')]);
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
