import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BackupConfig, ConfigAnswer } from '@aegis/protocol/backups/endpoints';
import { expect, test } from 'vitest';
import { specsIn, toToml } from '../src/backups/spec-file.ts';
import { configOf, MINIMAL } from './backup-config.ts';
import { cliOfFile, refused } from './cli-process.ts';
import { type Request, refuse, reply, type ScriptedServer, scriptedServer } from './scripted-server.ts';

/** Commands of configurations: what the server is asked, and its answers as text. */

const cli = cliOfFile();
const ID = '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a';

const answerOf = (config: BackupConfig, more: Partial<ConfigAnswer> = {}): ConfigAnswer => ({
  config,
  changed: true,
  diff: [],
  nodes: { added: [], removed: [], unchanged: 2 },
  ...more,
});
const env = (server: ScriptedServer) => ({ AEGIS_SERVER: server.url, AEGIS_TOKEN: 'aegis-t' });
const bodyOf = (request: Request | undefined): unknown => JSON.parse(request?.body ?? 'null');

test('create: what the server is asked, and what it answers', async () => {
  await using server = await scriptedServer({
    'POST /api/v1/backups/configs': ({ body }, response) => {
      const { spec } = JSON.parse(body) as { spec: unknown };
      reply(
        response,
        answerOf(configOf(spec, { revision: 1, assigned: 1 }), {
          nodes: { added: ['web-1'], removed: [], unchanged: 0 },
        }),
        201,
      );
    },
  });
  const key = join(cli.home, 'key.ini');
  writeFileSync(
    key,
    '# mine\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key=s3cr3t-value=\n',
  );
  const args = 'backups configs create etc --source /etc --to s3://backups/x --node web-1 --credentials-file'.split(
    ' ',
  );
  const said = await cli.text([...args, key, '--no-probe', '--schedule', '30 2 * * *'], { env: env(server) });
  expect(said).toMatchObject({
    code: 0,
    stderr: 'aegis: created. Try it: aegis backups run etc --node web-1 --follow\n',
  });
  expect(said.stdout.replace(/, \d+d ago/, ', long ago')).toBe(`name:         etc
id:           ${ID}
sources:      /etc
destination:  s3://backups/x
endpoint:     Amazon's (us-east-1)
access:       signed, key of the server's own surroundings
probe:        not tried yet
encrypted to: nobody: not encrypted
compression:  zstd 3
schedule:     30 2 * * * (UTC)
retention:    everything is kept
runs:         web-1
revision:     1, long ago by bob
`);
  expect(bodyOf(server.requests[0])).toEqual({
    spec: {
      name: 'etc',
      sources: ['/etc'],
      nodes: ['web-1'],
      destination: { kind: 's3', bucket: 'backups', prefix: 'x' },
      schedule: { cron: '30 2 * * *' },
    },
    probe: false,
    credentials: { access_key_id: 'AKIAEXAMPLE', secret_access_key: 's3cr3t-value=' },
  });
});

const PUT = 'PUT /api/v1/backups/configs/etc';
const SHOW = 'GET /api/v1/backups/configs/etc';

test('apply and diff: compared first, then stored; equal is left alone', async () => {
  const before = configOf({ ...MINIMAL, schedule: { cron: '@daily' } });
  const changed = answerOf(configOf(MINIMAL), {
    diff: [
      { field: 'schedule', before: '{"cron":"@daily"}', after: null },
      { field: 'sources.1', before: null, after: '"/srv"' },
      { field: 'paused', before: 'false', after: 'true' },
    ],
    nodes: { added: ['web-9'], removed: ['web-2'], unchanged: 1 },
  });
  const same = answerOf(configOf({ ...MINIMAL, name: 'same' }), { changed: false });
  await using server = await scriptedServer({
    [SHOW]: (_, response) => reply(response, before),
    [PUT]: (_, response) => reply(response, changed),
    'GET /api/v1/backups/configs/same': (_, response) => reply(response, same.config),
    'PUT /api/v1/backups/configs/same': (_, response) => reply(response, same),
  });
  const folder = mkdtempSync(join(cli.home, 'apply-'));
  writeFileSync(join(folder, 'a.json'), JSON.stringify(MINIMAL));
  writeFileSync(join(folder, 'b.json'), JSON.stringify({ ...MINIMAL, name: 'same' }));
  const run = (...args: string[]) => cli.text(['backups', 'configs', ...args], { env: env(server), cwd: folder });
  const lines = `  - schedule: {"cron":"@daily"}
  + sources.1: "/srv"
  ~ paused: false → true
  + node web-9
  - node web-2
`;
  expect(await run('diff', 'a.json', 'b.json')).toEqual({
    code: 3,
    stdout: `etc: would be changed, on 2 nodes\n${lines}`,
    stderr: '',
  });
  expect(await run('diff', '-q', 'a.json')).toEqual({ code: 3, stdout: '', stderr: '' });
  expect(await run('diff', 'b.json')).toEqual({ code: 0, stdout: '', stderr: '' });
  expect(await run('apply', '--dry-run', 'a.json', 'b.json')).toEqual({
    code: 3,
    stdout: `etc: would be changed, on 2 nodes\n${lines}same: unchanged\n`,
    stderr: '',
  });
  const sofar = server.requests.length;
  expect(server.requests.every(({ method, body }) => method === 'GET' || JSON.parse(body).dry_run === true)).toBe(true);
  expect(await run('apply', 'a.json', 'b.json')).toEqual({
    code: 0,
    stdout: `etc: changed, on 2 nodes\n${lines}same: unchanged\n`,
    stderr: '',
  });
  const asked = server.requests.slice(sofar).map(({ method, path, body }) => {
    const { dry_run, if_revision } = body ? JSON.parse(body) : {};
    return [method, path, dry_run, if_revision];
  });
  expect(asked).toEqual([
    ['GET', '/api/v1/backups/configs/etc', undefined, undefined],
    ['PUT', '/api/v1/backups/configs/etc', true, undefined],
    ['GET', '/api/v1/backups/configs/same', undefined, undefined],
    ['PUT', '/api/v1/backups/configs/same', true, undefined],
    ['PUT', '/api/v1/backups/configs/etc', undefined, 3],
  ]);
});

test('apply: one bad file, and nothing is asked of the server', async () => {
  await using server = await scriptedServer({});
  const bad = join(cli.home, 'bad.toml');
  writeFileSync(bad, 'name = "Big"\n');
  const said = await cli.text(['backups', 'configs', 'apply', bad], { env: env(server) });
  expect(said).toEqual(
    refused(
      `${bad}: name: lower-case letters, digits and ._- (at most 63, no leading mark). See deploy/examples/backup.toml, or 'aegis backups configs show NAME --toml'.`,
    ),
  );
  expect(server.requests).toEqual([]);
  expect(await cli.text(['backups', 'configs', 'apply'], { env: env(server) })).toEqual(
    refused('Name at least one file (-: standard input).'),
  );
});

test('edit: by flags, in the editor, and a refusal that keeps the text', async () => {
  let refusing = false;
  await using server = await scriptedServer({
    [SHOW]: (_, response) => reply(response, configOf(MINIMAL)),
    [`PUT /api/v1/backups/configs/${ID}`]: (_, response) =>
      refusing
        ? refuse(response, 409, 'backups.conflict', "Somebody has changed 'etc' meanwhile: edit it again.")
        : reply(
            response,
            answerOf(configOf(MINIMAL), { diff: [{ field: 'schedule', before: null, after: '{"cron":"@daily"}' }] }),
          ),
  });
  const stdout = 'etc: changed, on 2 nodes\n  + schedule: {"cron":"@daily"}\n';
  const edit = (more: string[], editor?: string) =>
    cli.text(['backups', 'configs', 'edit', 'etc', ...more], {
      env: { ...env(server), TMPDIR: cli.home, ...(editor ? { EDITOR: editor } : {}) },
    });
  expect(await edit(['--schedule', '@daily'])).toEqual({ code: 0, stdout, stderr: '' });
  expect(bodyOf(server.requests.at(-1))).toEqual({
    spec: { ...MINIMAL, schedule: { cron: '@daily' } },
    if_revision: 3,
    probe: true,
  });
  expect(await edit([])).toEqual(
    refused('There is no $EDITOR here: set it, or say what changes with flags (see --help).'),
  );
  expect(await edit([], 'true')).toEqual({ code: 0, stdout: '', stderr: 'aegis: nothing was changed.\n' });
  expect(await edit([], "sed -i '1a paused = true'")).toEqual({ code: 0, stdout, stderr: '' });
  expect(bodyOf(server.requests.at(-1))).toMatchObject({ spec: { paused: true }, if_revision: 3 });
  expect(readdirSync(cli.home).filter((name) => name.startsWith('aegis-edit-'))).toEqual([]);
  refusing = true;
  const said = await edit([], "sed -i '1a paused = true'");
  const kept = /Your text is in (\S+)\.\n$/.exec(said.stderr)?.[1] ?? '';
  expect(said).toEqual(refused(`Somebody has changed 'etc' meanwhile: edit it again. Your text is in ${kept}.`, 1));
  expect(readFileSync(kept, 'utf8')).toContain('paused = true');
});

test.each([
  [['create', 'etc'], 'Say what is backed up and where to: --source PATH --to URL.'],
  [
    ['create', 'etc', '--source', '/etc', '--to', 'ftp://x'],
    '--to ftp://x: write s3://BUCKET/PREFIX, or file:///PATH for a folder of the node.',
  ],
  [
    ['create', 'etc', '--source', '/etc', '--to', 's3://b', '--jitter', 'soon'],
    '--jitter soon: not a time; write 90, 90s, 15m, 2h or 7d.',
  ],
  [
    ['create', 'etc', '--source', '/etc', '--to', 's3://b', '--upload-limit', 'fast'],
    '--upload-limit fast: not a size; write 4096, 100k, 10M or 1.5G.',
  ],
  [
    ['create', 'etc', '--source', '/etc', '--to', 's3://b', '--hook-timeout', '5'],
    '--hook-timeout belongs to --before, --after or --on-failure.',
  ],
  [
    ['create', 'etc', '--source', '/etc', '--to', 's3://b', '--credentials-from-env'],
    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set here: set them.',
  ],
  [
    ['create', 'etc', '--source', '/etc', '--to', 's3://b', '--credentials-file', '/proc/nowhere'],
    'The credentials file /proc/nowhere cannot be read (ENOENT). Name one that you may read.',
  ],
  [['assign', 'etc'], 'Name a configuration and at least one node: aegis backups configs assign NAME NODE…'],
  [['delete', 'etc'], 'Without a terminal nobody can be asked: add --yes if it is meant.'],
])('refused before the server is asked: %j', async (args, sentence) => {
  expect(await cli.text(['backups', 'configs', ...args], { env: { AEGIS_SERVER: 'http://127.0.0.1:9' } })).toEqual(
    refused(sentence),
  );
});

test('credentials: no file gets them into a message, whatever is wrong with it', async () => {
  const file = join(cli.home, 'odd');
  const ask = async (text: string) => {
    writeFileSync(file, text);
    const args = ['create', 'e', '--source', '/e', '--to', 's3://b', '--credentials-file', file];
    return await cli.text(['backups', 'configs', ...args], { env: { AEGIS_SERVER: 'http://127.0.0.1:9' } });
  };
  const next = 'Write [default], aws_access_key_id = … and aws_secret_access_key = …, or the same as JSON.';
  expect(await ask('{"secret_access_key": "TOPSECRET"')).toEqual(refused(`${file} is not valid JSON. ${next}`));
  expect(await ask('[default]\naws_secret_access_key = TOPSECRET')).toEqual(
    refused(`${file} has no access key id and secret access key. ${next}`),
  );
  expect(await ask('[work]\naws_secret_access_key = TOPSECRET')).toEqual(
    refused(`${file} has no section [default]. ${next}`),
  );
});

test('a hostile server: control characters in names and fields reach no terminal', async () => {
  const evil = '\u001b]0;owned\u0007\u001b[2Jx';
  const config = { ...configOf(MINIMAL), name: evil, description: evil, created_by: evil, updated_by: evil };
  await using server = await scriptedServer({
    [SHOW]: (_, response) => reply(response, config),
    [PUT]: (_, response) => reply(response, answerOf(config, { diff: [{ field: evil, before: evil, after: evil }] })),
    'GET /api/v1/backups/configs': (_, response) => reply(response, { items: [config], next_cursor: null }),
    [`GET /api/v1/backups/configs/${ID}/nodes`]: (_, response) => reply(response, { items: [], next_cursor: null }),
  });
  writeFileSync(join(cli.home, 'etc.json'), JSON.stringify(MINIMAL));
  for (const args of [['list'], ['show', 'etc'], ['diff', join(cli.home, 'etc.json')]]) {
    const { stdout, stderr } = await cli.text(['backups', 'configs', ...args], { env: env(server) });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal must not get any: the test looks for them
    expect([args, /[\x00-\x09\x0b-\x1f\x7f]/.test(stdout + stderr)]).toEqual([args, false]);
    expect(stdout).toContain('x');
  }
});

test('deploy/examples/backup.toml is a configuration, and all that it comments out may be said', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../deploy/examples/backup.toml'), 'utf8');
  const [spec] = specsIn(text, 'backup.toml');
  expect(specsIn(toToml(configOf(spec)), 'f')).toEqual([spec]);
  const examples = /^#(?:sts|path|kind|ca|\.\.\.|\[destination\]|recipients)/;
  const whole = text
    .split('\n')
    .map((line) => (/^#(?=[a-z_]+ = )/.test(line) && !examples.test(line) ? line.slice(1) : line))
    .join('\n');
  const [full] = specsIn(whole, 'backup.toml');
  expect(full).toMatchObject({ exclude: { ifiles: [], larger_than: 1073741824 }, retention: { days: 30 } });
});
