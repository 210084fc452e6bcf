import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { generateIdentity } from '@aegis/archive/backup/age/keys';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { objectNames, type Run } from '@aegis/protocol/backups/run';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cliOfFile, ran, refused } from './cli-process.ts';
import { CONFIG_ID, type MadeRun, madeRun, NODE_UID, rangeStorage, scratch } from './made-run.ts';
import { refuse, reply, scriptedServer } from './scripted-server.ts';

/** Backups opened on the operator's machine: from a folder without any server, and through links that a server gives. */

const cli = cliOfFile();
const place = scratch();
const at = (...names: string[]) => join(place.path, ...names);
const source = at('source');
const home = at('home');
const bare = (path: string) => join(source, path).slice(1);
let plain: MadeRun;
let sealed: MadeRun;
let later: MadeRun;

beforeAll(async () => {
  mkdirSync(join(source, 'sub'), { recursive: true });
  writeFileSync(join(source, 'a'), 'first\n');
  writeFileSync(join(source, 'sub', 'b\nb'), Buffer.from([0, 255, 10, 13]));
  writeFileSync(join(source, 'sub', 'big'), Buffer.alloc(3_000_000, 7));
  symlinkSync('../a', join(source, 'sub', 'link'));
  linkSync(join(source, 'a'), join(source, 'twin'));
  chmodSync(join(source, 'sub', 'big'), 0o640);
  for (const name of ['a', 'sub/big', 'sub/b\nb']) utimesSync(join(source, name), 1_769_846_400, 1_769_846_400);
  plain = await madeRun(source, at('plain'));
  const { identity, recipient } = generateIdentity();
  writeFileSync(at('backup.key'), `# mine\n${identity}\n`);
  sealed = await madeRun(source, at('sealed'), {
    recipients: [recipient],
    key: plain.key,
    runId: '01981c2e-7f3a-7bd2-a4c1-00000000bbbb',
  });
  execFileSync('cp', ['-a', source, at('before')]);
  writeFileSync(join(source, 'a'), 'second\n');
  writeFileSync(join(source, 'new'), '');
  later = await madeRun(source, at('later'), { key: plain.key, runId: '01981c2e-7f3a-7bd2-a4c1-00000000cccc' });
  mkdirSync(join(home, '.config/aegis'), { recursive: true });
  writeFileSync(join(home, '.config/aegis/known_nodes'), plain.knownLine, { mode: 0o600 });
});
afterAll(() => place[Symbol.dispose]());

const text = (args: string[], env: Record<string, string> = {}) =>
  cli.text(['backups', ...args], { env: { HOME: home, AEGIS_NATIVE_DIR: nativeDir, ...env }, cwd: place.path });
const nativeDir = join(import.meta.dirname, '../../native/build/Release');
const same = (one: string, two: string): void => {
  execFileSync('diff', ['-r', '--no-dereference', one, two]);
};

test('restore --from: everything, by the key of a known node, and again', async () => {
  expect(await text(['restore', '--from', 'plain', '-t', 'out'])).toEqual({
    code: 0,
    stdout: 'restored: 7 below out\nwritten:  2.9 MiB\n',
    stderr: '',
  });
  same(at('out', bare('')), at('before'));
  expect(lstatSync(at('out', bare('sub/big')))).toMatchObject({ mtimeMs: 1_769_846_400_000, mode: 0o100640 });
  expect(lstatSync(at('out', bare('a'))).ino).toBe(lstatSync(at('out', bare('twin'))).ino);
  expect(await text(['restore', '--from', 'plain', '-t', 'out', '--json'])).toMatchObject({ code: 0, stderr: '' });
});

test('restore: some paths, what would happen, and what is there', async () => {
  expect(await text(['restore', '--from', 'plain', '-t', 'some', '--path', `/${bare('sub/big')}`])).toMatchObject({
    code: 0,
    stderr: '',
  });
  expect(readdirSync(at('some', bare('sub')))).toEqual(['big']);
  expect(readdirSync(at('some', bare('')))).toEqual(['sub']);
  expect(await text(['restore', '--from', 'plain', '-t', 'none', '--path', '/no/*.such', '--path', 'either'])).toEqual({
    code: 1,
    stdout: 'restored: 0 below none\nwritten:  0 B\n',
    stderr: "aegis: nothing in the backup matches '/no/*.such', 'either': 'aegis backups ls RUN' shows what it has.\n",
  });
  const dry = await text(['restore', '--from', 'plain', '-t', 'dry', '--dry-run']);
  expect(dry).toMatchObject({ code: 0, stderr: '' });
  expect(dry.stdout).toContain(`+ ${bare('sub/b')}\\nb\n`);
  expect(dry.stdout).toMatch(/\nwould restore: 7 below dry\n$/);
  expect(existsSync(at('dry'))).toBe(false);
  mkdirSync(at('there', bare('')), { recursive: true });
  writeFileSync(at('there', bare('a')), 'mine');
  const kept = await text(['restore', '--from', 'plain', '-t', 'there']);
  expect(kept.code).toBe(0);
  expect(readFileSync(at('there', bare('a')), 'utf8')).toBe('mine');
  writeFileSync(at('there', bare('extra')), 'mine');
  expect(await text(['restore', '--from', 'plain', '-t', 'there', '--overwrite', 'always', '--delete'])).toMatchObject({
    code: 0,
  });
  same(at('there', bare('')), at('before'));
});

test('an encrypted backup takes its identity, from a file or standard input, and no other', async () => {
  const args = ['--from', 'sealed', '-t', 'opened'];
  expect(await text(['restore', ...args])).toEqual({
    code: 1,
    stdout: '',
    stderr: 'aegis: This is encrypted: give the identity that opens it (--identity FILE).\n',
  });
  expect(await text(['restore', ...args, '-i', 'backup.key'])).toMatchObject({ code: 0, stderr: '' });
  same(at('opened', bare('')), at('before'));
  writeFileSync(at('other.key'), `${generateIdentity().identity}\n`);
  const wrong = await text(['restore', ...args, '-i', 'other.key', '--json']);
  expect([wrong.code, JSON.parse(wrong.stderr).error.code]).toEqual([1, 'backups.wrong_identity']);
  expect(await text(['restore', ...args, '-i', 'nowhere.key'])).toEqual(
    refused(
      "The identity file nowhere.key cannot be read (ENOENT). Name the file that 'aegis backups key generate' or age-keygen made.",
    ),
  );
});

test('ls, cat, diff and verify', async () => {
  const list = await text(['ls', '--from', 'plain']);
  expect({ ...list, stdout: list.stdout.replace(/^(\S+) \S+ +\S+ +(\d+) \S+ \S+ /gm, '$1 $2 ') }).toEqual({
    code: 0,
    stdout: [
      `drwxr-xr-x 0 ${bare('')}`,
      `-rw-r--r-- 6 ${bare('a')}`,
      `drwxr-xr-x 0 ${bare('sub')}`,
      `-rw-r--r-- 4 ${bare('sub/b')}\\nb`,
      `-rw-r----- 3000000 ${bare('sub/big')}`,
      `lrwxrwxrwx 0 ${bare('sub/link')} -> ../a`,
      `hrw-r--r-- 0 ${bare('twin')} = ${bare('a')}`,
      '',
    ].join('\n'),
    stderr: '',
  });
  expect((await text(['ls', '--from', 'plain', `/${bare('sub')}`])).stdout.trimEnd().split('\n')).toHaveLength(3);
  expect((await text(['ls', '--from', 'plain', `${bare('a')}`])).stdout).toMatch(/ {7}6 2026-01-31 08:00:00 \S+\/a\n$/);
  expect(await text(['ls', '--from', 'plain', '/no/such'])).toEqual(
    refused("The backup has nothing at /no/such. 'aegis backups ls RUN' shows what it has.", 1),
  );
  const lines = (await text(['ls', '--from', 'plain', '--json'])).stdout.trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line).path)).toContain(bare('sub/b\nb'));
  const content = await cli.run(['backups', 'cat', '--from', 'plain', bare('sub/b\nb')], {
    env: { HOME: home, AEGIS_NATIVE_DIR: nativeDir },
    cwd: place.path,
  });
  expect([content.code, content.stdout]).toEqual([0, Buffer.from([0, 255, 10, 13])]);
  const verified = await text(['verify', '--from', 'sealed', '-i', 'backup.key']);
  expect({ ...verified, stdout: verified.stdout.replace(/[\d.]+ (Ki)?B of [\d.]+ (Ki)?B/, 'all') }).toEqual({
    code: 0,
    stdout: `verified:  good
signed by: web-1 (${plain.key.keyId})
checked:   7 entries, 2.9 MiB
fetched:   all
archive:   whole, SHA-256 is the signed one
`,
    stderr: '',
  });
});

test('a node that is not trusted, a key in a file, and bytes that were changed', async () => {
  const stranger = at('stranger');
  mkdirSync(stranger);
  const env = { HOME: stranger };
  const untrusted = await text(['verify', '--from', 'plain', '--json'], env);
  expect([untrusted.code, JSON.parse(untrusted.stderr).error.code]).toEqual([1, 'backups.untrusted_node']);
  writeFileSync(at('node.pub'), `${plain.key.publicRaw.toString('base64')}\n`);
  expect(await text(['verify', '--from', 'plain', '--node-key', 'node.pub'], env)).toMatchObject({ code: 0 });
  writeFileSync(at('known'), plain.knownLine);
  expect(await text(['verify', '--from', 'plain', '--node-key', 'known'], env)).toMatchObject({ code: 0 });
  expect(await text(['verify', '--from', 'plain', '--node-key', plain.key.keyId])).toMatchObject({ code: 0 });
  expect(await text(['verify', '--from', 'plain', '--node-key', plain.key.keyId], env)).toEqual(
    refused(
      `No node that you trust has the key ${plain.key.keyId}: 'aegis nodes trust NODE' adds it, or name a file with the key itself.`,
      1,
    ),
  );
  writeFileSync(at('other.pub'), `${generateKeyPair().publicRaw.toString('base64')}\n`);
  expect(await text(['verify', '--from', 'plain', '--node-key', 'other.pub'])).toMatchObject({ code: 1, stdout: '' });
  execFileSync('cp', ['-a', at('plain'), at('spoilt')]);
  const archive = readFileSync(at('spoilt', objectNames(false).archive));
  archive.writeUInt8(archive.readUInt8(archive.length >> 1) ^ 1, archive.length >> 1);
  writeFileSync(at('spoilt', objectNames(false).archive), archive);
  const spoilt = await text(['restore', '--from', 'spoilt', '-t', 'never']);
  expect(spoilt.code).not.toBe(0);
  expect((await text(['verify', '--from', 'spoilt'])).code).toBe(1);
});

const RUNS = '/api/v1/backups/runs';
const served = async (of: MadeRun, more: { run?: Partial<Run>; links?: (url: string) => unknown[] } = {}) => {
  const storage = await rangeStorage(of.folder);
  const run = { ...of.run, ...more.run };
  const names = objectNames(run.encrypted);
  const links = more.links?.(storage.url) ?? [
    ...(['archive', 'manifest', 'statement'] as const).map((object) => ({
      object,
      key: names[object],
      url: `${storage.url}/b/${names[object]}`,
      expires_at: '2027-01-01T00:00:00Z',
    })),
  ];
  const show = (_: unknown, response: Parameters<typeof reply>[0]) => reply(response, run);
  const server = await scriptedServer({
    [`GET ${RUNS}`]: (_, response) => reply(response, { items: [run], next_cursor: null }),
    [`GET ${RUNS}/latest%3Aetc%40web-1`]: show,
    [`GET ${RUNS}/${of.run.run_id}`]: show,
    [`POST ${RUNS}/${run.run_id}/links`]: (_, response) => reply(response, { run, links }),
    [`GET /api/v1/backups/configs/${CONFIG_ID}`]: (_, response) =>
      refuse(response, 404, 'backups.unknown_config', 'gone'),
  });
  return {
    storage,
    server,
    env: { AEGIS_SERVER: server.url, AEGIS_TOKEN: 'aegis-secret' },
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      await storage[Symbol.asyncDispose]();
    },
  };
};

test('through links: by ranges, without a credential, and only what is needed', async () => {
  await using stage = await served(plain);
  expect(await text(['restore', 'latest:etc@web-1', '-t', 'linked'], stage.env)).toEqual({
    code: 0,
    stdout: 'restored: 7 below linked\nwritten:  2.9 MiB\n',
    stderr: '',
  });
  same(at('linked', bare('')), at('before'));
  expect(
    stage.storage.requests.every(({ method, range, authorization }) => method === 'GET' && range && !authorization),
  ).toBe(true);
  const content = await text(['cat', '01981c2e-7f3a-7bd2-a4c1-00', bare('a')], stage.env);
  expect(content).toEqual({ code: 0, stdout: 'first\n', stderr: '' });
});

test('diff of two runs', async () => {
  await using stage = await served(plain);
  await using other = await served(later);
  // Both behind one server: the scripted one knows a run each.
  const both = await scriptedServer({
    [`GET ${RUNS}/${plain.run.run_id}`]: (_, response) => reply(response, plain.run),
    [`GET ${RUNS}/${later.run.run_id}`]: (_, response) => reply(response, later.run),
    [`GET /api/v1/backups/configs/${CONFIG_ID}`]: (_, response) =>
      refuse(response, 404, 'backups.unknown_config', 'gone'),
    ...Object.fromEntries(
      [[plain, stage] as const, [later, other] as const].map(([made, { storage }]) => [
        `POST ${RUNS}/${made.run.run_id}/links`,
        (_: unknown, response: Parameters<typeof reply>[0]) =>
          reply(response, {
            run: made.run,
            links: (['archive', 'manifest', 'statement'] as const).map((object) => ({
              object,
              key: 'k',
              url: `${storage.url}/b/${objectNames(false)[object]}`,
              expires_at: '',
            })),
          }),
      ]),
    ),
  });
  const said = await text(['diff', plain.run.run_id, later.run.run_id], { AEGIS_SERVER: both.url });
  await both[Symbol.asyncDispose]();
  expect(said.stderr).toBe('');
  expect(said.stdout.split('\n')).toEqual([
    `M ${bare('')} (mtime)`,
    `M ${bare('a')} (content, size, mtime)`,
    `+ ${bare('new')}`,
    expect.stringMatching(new RegExp(`^M ${bare('twin')} `)),
    '',
  ]);
});

test('a hostile server: another run, another node, another configuration, no links', async () => {
  {
    await using stage = await served(sealed, { run: { run_id: plain.run.run_id } });
    const said = await text(['ls', 'latest:etc@web-1', '-i', 'backup.key', '--json'], stage.env);
    expect([said.code, said.stdout, JSON.parse(said.stderr).error.code]).toEqual([1, '', 'backups.bad_statement']);
  }
  {
    await using stage = await served(plain, { run: { node_key: generateKeyPair().keyId } });
    const said = await text(['ls', 'latest:etc@web-1'], stage.env);
    expect(said).toEqual(
      refused(
        `This backup claims to be of web-1, with another key than the one that you trust (${plain.key.keyId.slice(0, 16)}…): it is not used. Find out who made it.`,
        1,
      ),
    );
  }
  {
    await using stage = await served(plain, { run: { node_uid: NODE_UID.replace(/1$/, '2'), node: '\u001b[2Jdb-1' } });
    const said = await text(['ls', 'latest:etc@web-1'], stage.env);
    expect(said).toEqual(
      refused(
        "You do not trust the node db-1 yet, whose signature would vouch for this backup: compare its key and run 'aegis nodes trust db-1'.",
        1,
      ),
    );
  }
  {
    await using stage = await served(plain, { run: { config: 'other' } });
    expect(await text(['ls', 'latest:etc@web-1'], stage.env)).toEqual(
      refused(
        "The server answers with another backup (other of web-1) than 'latest:etc@web-1': it is not used. Find out who answers there.",
        1,
      ),
    );
  }
  for (const links of [[], [{ object: 'archive', key: 'k', url: 'file:///etc/passwd', expires_at: '' }]]) {
    await using stage = await served(plain, { links: () => links });
    expect(await text(['ls', plain.run.run_id], stage.env)).toEqual(
      refused('The storage of this backup has no address that can be asked. Try again, or see to the storage.', 1),
    );
  }
});

test('a reader that goes away ends it quietly', async () => {
  const child = cli.start(['backups', 'cat', '--from', at('plain'), bare('sub/big')], {
    HOME: home,
    AEGIS_NATIVE_DIR: nativeDir,
  });
  child.stdout?.once('data', () => child.stdout?.destroy());
  const { code, stderr } = await ran(child);
  expect([code, stderr]).toEqual([0, '']);
});

test.each([
  [['restore', 'latest:etc'], 'Missing required flag target. See --help.'],
  [
    ['restore', '-t', 'x'],
    'Write aegis backups restore RUN --target DIR; RUN is an id, its beginning, latest:CONFIG or latest:CONFIG@NODE.',
  ],
  [['restore', 'latest:etc', '-t', 'x', '--node', 'web-1'], '--target x: on a node it is an absolute path.'],
  [
    ['restore', 'latest:etc', '-t', 'x', '--delete'],
    '--delete makes a folder be as the backup: add --overwrite always or if-newer.',
  ],
  [
    ['restore', 'latest:etc', '-t', '/x', '--on-this-node'],
    "Here a run is named by its whole id: 'aegis backups list --json' shows it.",
  ],
  [['cat', 'latest:etc'], 'Name the file: aegis backups cat RUN PATH.'],
  [['diff', 'latest:etc'], 'Name two runs: aegis backups diff RUN RUN.'],
  [['verify', 'latest:etc', '--sample', '0%'], '--sample 0%: write a share such as 5% or 0.05.'],
  [['run', 'etc', '--node', 'a', '--timeout', 'x'], '--timeout x: not a time; write 90, 15m, 2h or 7d.'],
  [
    ['show', 'x!'],
    "'x!' names no run. Give an id as 'aegis backups list' shows it, latest:CONFIG or latest:CONFIG@NODE.",
  ],
])('%j', async (args, sentence) => {
  expect(await text(args, { AEGIS_SERVER: 'http://127.0.0.1:9' })).toEqual(refused(sentence));
});
