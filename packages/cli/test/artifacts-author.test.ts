import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { validate } from '@aegis/protocol/validation';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ArtifactFolder, BUNDLE, make, packedFolder } from './artifact-folder.ts';
import { refused } from './cli-process.ts';

/** What an author does on his own machine, with the real compiler and the real loader. */

let author: ArtifactFolder;
beforeAll(async () => {
  author = await packedFolder();
});
afterAll(() => author?.[Symbol.dispose]());

const sha256 = (file: string) => author.sha256(file);
const artifacts = (...args: string[]) => author.aegis(['artifacts', ...args]);

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
