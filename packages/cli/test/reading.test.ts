import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Node } from '@aegis/protocol/nodes/node';
import { expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { cliOfFile, ran } from './cli-process.ts';
import {
  COMMAND_ID,
  chunk,
  command,
  ended,
  execution,
  LOGS,
  lines,
  refuse,
  reply,
  scriptedServer,
  stream,
} from './scripted-server.ts';

const cli = cliOfFile();

const text = (args: readonly string[], env: Record<string, string>) => cli.text(args, { env });

const node = (name: string, more: Partial<Node> = {}): Node => ({
  uid: '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6b',
  agent_id: '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6b',
  name,
  state: 'active',
  status: 'online',
  maintenance: false,
  keyless: false,
  key_id: 'ab'.repeat(32),
  site: 'fra',
  labels: { env: 'prod', tier: 'front' },
  attrs: { rack: '12' },
  capabilities: ['exec'],
  version: '0.1.0',
  os: 'Debian',
  kernel: '6.1',
  container_engine: null,
  last_seen: null,
  created_at: '2026-01-31T08:00:00.000Z',
  updated_at: '2026-01-31T08:00:00.000Z',
  ...more,
});

test('nodes list: every page, aligned; what a node says cannot reach the terminal', async () => {
  await using server = await scriptedServer({
    'GET /api/v1/agents': ({ query }, response) =>
      query.get('cursor')
        ? reply(response, {
            agents: [node('b', { site: null, labels: {}, os: '\u001b[2Jevil\u0007' })],
            total: 2,
            next_cursor: null,
          })
        : reply(response, { agents: [node('web-1')], total: 2, next_cursor: 'next' }),
  });
  const env = { AEGIS_SERVER: server.url };
  expect(await text(['nodes', 'list', '--site', 'fra', '--label', 'env=prod'], env)).toEqual({
    code: 0,
    stdout: `NAME   STATUS  SITE  OS      VERSION  LAST SEEN  LABELS
web-1  online  fra   Debian  0.1.0    never      env=prod,tier=front
b      online        evil    0.1.0    never
`,
    stderr: '',
  });
  expect(server.requests.map(({ query }) => String(query))).toEqual([
    'site=fra&label=env%3Dprod&limit=1000',
    'site=fra&label=env%3Dprod&limit=1000&cursor=next',
  ]);
  const { stdout } = await text(['nodes', 'list', '--json', '--limit', '1'], env);
  expect(JSON.parse(stdout)).toEqual({ nodes: [node('web-1')], total: 2 });
});

test('nodes label keeps the other labels', async () => {
  await using server = await scriptedServer({
    'GET /api/v1/agents/web-1': (_, response) => reply(response, node('web-1')),
    [`PATCH /api/v1/agents/${node('').uid}`]: ({ body }, response) => reply(response, node('web-1', JSON.parse(body))),
  });
  expect(
    await text(['nodes', 'label', 'web-1', 'env=test', 'tier-', 'rack=1=2'], { AEGIS_SERVER: server.url }),
  ).toEqual({
    code: 0,
    stdout: 'env=test\nrack=1=2\n',
    stderr: '',
  });
});

const bytes = Buffer.from([0, 255, 10, 0xc3, 0x28, 13, 10]);

test('logs: the stored bytes, exactly; a gap is announced with offset and reason', async () => {
  await using server = await scriptedServer({
    [`GET /api/v1/commands/${COMMAND_ID}`]: (_, response) => reply(response, command('succeeded', { succeeded: 1 })),
    [LOGS]: (_, response) =>
      stream(
        response,
        lines([
          chunk(bytes, 0),
          {
            type: 'gap',
            execution_id: execution('queued').execution_id,
            node: 'web-1',
            attempt: 1,
            stream: 'stdout',
            offset: 7,
            gap: 93,
            reason: 'output_limit',
          },
          chunk('tail', 100),
          ...ended([execution('succeeded')], 'succeeded'),
        ]),
      ),
  });
  const { stdout, stderr, code } = await cli.run(['logs', COMMAND_ID], { env: { AEGIS_SERVER: server.url } });
  expect(stdout).toEqual(Buffer.concat([bytes, Buffer.from('tail')]));
  expect({ stderr, code }).toEqual({
    stderr: "aegis: 93 bytes of web-1's stdout are missing from byte 7 on (output_limit).\n",
    code: 0,
  });
});

test('logs passes its choices on, and without COMMAND takes the latest', async () => {
  await using server = await scriptedServer({
    'GET /api/v1/commands': (_, response) =>
      reply(response, { items: [command('succeeded', { succeeded: 1 })], next_cursor: null }),
    [LOGS]: (_, response) => stream(response, lines(ended([execution('succeeded')], 'succeeded'))),
  });
  const { code } = await cli.run(['logs', '--node', 'web-1', '--attempt', '2', '--stream', 'stderr', '--offset', '5'], {
    env: { AEGIS_SERVER: server.url },
  });
  expect(code).toBe(0);
  expect(server.requests.map(({ path, query }) => `${path}?${query}`)).toEqual([
    '/api/v1/commands?limit=1',
    `/api/v1/commands/${COMMAND_ID}/logs?node=web-1&attempt=2&stream=stderr&offset=5`,
  ]);
});

test("a command id's beginning is enough when it is one command's alone", async () => {
  const one = command('succeeded', { succeeded: 1 });
  const other = { ...one, command_id: '01981c2e-aaaa-7bd2-a4c1-3f0e8f1d2b6a' };
  await using server = await scriptedServer({
    'GET /api/v1/commands': (_, response) => reply(response, { items: [one, other], next_cursor: null }),
    [`GET /api/v1/commands/${COMMAND_ID}`]: (_, response) => reply(response, one),
  });
  const env = { AEGIS_SERVER: server.url };
  const shown = await text(['commands', 'show', COMMAND_ID.slice(0, 12), '--json'], env);
  expect([shown.code, JSON.parse(shown.stdout)]).toEqual([0, one]);
  const refused = async (id: string) => {
    const { code, stderr } = await text(['commands', 'show', id], env);
    return [code, stderr];
  };
  expect(await refused('01981c2e')).toEqual([
    2,
    "aegis: 2 of the newest commands have an id that begins with '01981c2e': give more of it.\n",
  ]);
  expect(await refused('01a1')).toEqual([
    2,
    "aegis: '01a1' is not a command id. Give one as 'aegis commands list' shows it, or its first 8 characters at least.\n",
  ]);
  expect(await refused('ffffffff')).toEqual([
    1,
    "aegis: None of the newest 1000 commands has an id that begins with 'ffffffff'. See 'aegis commands list'.\n",
  ]);
});

test('logs -f without COMMAND misses none of many that come at once, and follows each once', async () => {
  const idOf = (n: number) => `01981c2e-${(0x1000 + n * 100).toString(16)}-7bd2-a4c1-3f0e8f1d2b6a`;
  const all = Array.from({ length: 200 }, (_, n) => ({
    ...command('succeeded', { succeeded: 1 }),
    command_id: idOf(n),
  })).reverse();
  let looks = 0;
  const page: Parameters<typeof scriptedServer>[0][string] = ({ query }, response) => {
    const from = Number(query.get('cursor') ?? 0);
    if (from === 0) looks++;
    const shown = looks === 1 ? all.slice(-1) : all;
    const end = from + Number(query.get('limit'));
    reply(response, { items: shown.slice(from, end), next_cursor: end < shown.length ? String(end) : null });
  };
  const logs = Object.fromEntries(
    all.map(({ command_id }) => [
      `GET /api/v1/commands/${command_id}/logs`,
      ((_, response) =>
        stream(response, lines(ended([execution('succeeded')], 'succeeded')))) satisfies typeof page as typeof page,
    ]),
  );
  await using server = await scriptedServer({ 'GET /api/v1/commands': page, ...logs });
  const child = cli.start(['logs', '-f', '--json'], { AEGIS_SERVER: server.url });
  const ending = ran(child); // reads what it writes
  const followed = () => server.requests.map(({ path }) => path).filter((path) => path.endsWith('/logs'));
  await waitFor('the last one', () => followed().length >= 199, 20_000);
  const before = looks;
  await waitFor('two more looks', () => looks >= before + 2);
  child.kill('SIGKILL');
  await ending;
  expect(followed().sort()).toEqual(
    all
      .slice(0, -1)
      .map(({ command_id }) => `/api/v1/commands/${command_id}/logs`)
      .sort(),
  );
});

test('failures of commands other than submit are 1, wrong usage is 2', async () => {
  await using server = await scriptedServer({
    'GET /api/v1/agents': (_, response) => refuse(response, 401, 'access.unauthenticated', 'Who are you?'),
    'GET /healthz': (_, response) =>
      void response.writeHead(502, { 'content-type': 'text/html' }).end('<h1>proxy</h1>'),
  });
  const env = { AEGIS_SERVER: server.url };
  expect(await text(['nodes', 'list'], env)).toEqual({
    code: 1,
    stdout: '',
    stderr:
      "aegis: Who are you? Make a token with 'aegis server token' and put it into AEGIS_TOKEN, a file (--token-file) or a context.\n",
  });
  expect(await text(['server', 'status'], env)).toEqual({
    code: 1,
    stdout: '',
    stderr: `aegis: ${server.url} answered 502, and not as an Aegis server does. Is the URL right?\n`,
  });
  expect((await text(['nodes', 'list', '--server', 'ftp://x'], env)).code).toBe(2);
});

test('contexts: 0600, never a token in the output, and a token goes to its own server alone', async () => {
  await using home = await scriptedServer({
    'GET /api/v1/agents': (_, response) => reply(response, { agents: [], total: 0, next_cursor: null }),
  });
  await using other = await scriptedServer({
    'GET /api/v1/agents': (_, response) => reply(response, { agents: [], total: 0, next_cursor: null }),
  });
  const env = { XDG_CONFIG_HOME: join(cli.home, 'config') };
  const file = join(env.XDG_CONFIG_HOME, 'aegis/contexts.toml');
  const made = await cli.run(['context', 'set', 'home', '--server', home.url, '--token-file', '-'], {
    env,
    stdin: 'aegis_1_secret\n',
  });
  expect({ code: made.code, stdout: String(made.stdout), stderr: made.stderr }).toEqual({
    code: 0,
    stdout: `home: ${home.url} (in use)\n`,
    stderr: '',
  });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(readFileSync(file, 'utf8')).toBe(
    `current = "home"\n\n[contexts.home]\nserver = "${home.url}"\ntoken = "aegis_1_secret"\n`,
  );
  await text(['context', 'set', 'away', '--server', other.url], env);
  expect((await text(['context', 'list'], env)).stdout).toBe(
    `   NAME  SERVER${' '.repeat(home.url.length - 6)}  TOKEN\n*  home  ${home.url}  yes\n   away  ${other.url}${' '.repeat(home.url.length - other.url.length)}  no\n`,
  );
  await text(['nodes', 'list'], env);
  await text(['nodes', 'list', '--context', 'away'], env);
  await text(['nodes', 'list', '--server', other.url], env);
  await text(['nodes', 'list'], { ...env, AEGIS_SERVER: other.url, AEGIS_TOKEN: 'aegis_2_other' });
  expect(home.requests.map(({ headers }) => headers.authorization)).toEqual(['Bearer aegis_1_secret']);
  expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([
    undefined,
    undefined,
    'Bearer aegis_2_other',
  ]);

  expect(await text(['context', 'use', 'away'], env)).toEqual({ code: 0, stdout: 'away\n', stderr: '' });
  expect(await text(['context', 'remove', 'away'], env)).toEqual({
    code: 0,
    stdout: 'away is forgotten\n',
    stderr: '',
  });
  expect(await text(['context', 'use', 'away'], env)).toEqual({
    code: 2,
    stdout: '',
    stderr: "aegis: There is no context 'away'. See 'aegis context list'.\n",
  });

  chmodSync(file, 0o644);
  expect((await text(['context', 'list'], env)).stderr).toBe(
    `aegis: ${file} can be read by others, and it holds tokens. Run: chmod 600 ${file}\n`,
  );
  chmodSync(file, 0o600);
  writeFileSync(file, 'token = "aegis_1_secret');
  expect((await text(['context', 'list'], env)).stderr).toBe(
    `aegis: ${file} is not valid TOML. Correct it, or remove it and run 'aegis context set' again.\n`,
  );
});

test('an unhealthy server is told as such, with the part that fails', async () => {
  await using server = await scriptedServer({
    'GET /healthz': (_, response) =>
      reply(response, { status: 'unhealthy', timestamp: 'now', version: '0.1.0', failing: ['storage'] }, 503),
  });
  expect(await text(['server', 'status'], { AEGIS_SERVER: server.url })).toEqual({
    code: 1,
    stdout: '',
    stderr: `aegis: The server at ${server.url} is up but unhealthy: storage fails. Its log says why.\n`,
  });
});
