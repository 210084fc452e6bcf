import { expect, test } from 'vitest';
import { cliOfFile } from './cli-process.ts';
import { answer, reply, SUBMIT, scriptedServer } from './scripted-server.ts';

/** From the words of a command line to what is submitted, and words that are none. */

const cli = cliOfFile();

test('what the command line says is what is submitted', async () => {
  await using server = await scriptedServer({ [SUBMIT]: (_, response) => reply(response, answer(1), 202) });
  const args = [
    '-t',
    'web-1',
    '-t',
    'site=fra',
    '--detach',
    '--stdin',
    '-',
    '--user',
    'bob',
    '--cwd',
    '/srv',
    '--env',
    'A=1=2',
    '--env',
    'HOME_IS',
  ];
  const rest = [
    '--umask',
    '027',
    '--timeout',
    '15m',
    '--grace',
    '3',
    '--priority',
    'high',
    '--ttl',
    '2h',
    '--at',
    '2027-01-01T00:00:00+01:00',
  ];
  const last = [
    '--retries',
    '2',
    '--delivery',
    'at-least-once',
    '--output-limit-bytes',
    '0',
    '--idempotency-key',
    'k',
    '--correlation-id',
    'c',
  ];
  const { code, stdout } = await cli.run(
    ['submit', ...args, ...rest, ...last, '--', 'cat', '-', '--json', '--', '--help'],
    {
      env: { AEGIS_SERVER: server.url, AEGIS_TOKEN: 'aegis_1_secret', HOME_IS: 'here' },
      stdin: 'in',
    },
  );
  expect({ code, stdout: String(stdout) }).toEqual({ code: 0, stdout: `${answer(1).command_id}\n` });
  expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
    command_type: 'RunCommand',
    payload: {
      argv: ['cat', '-', '--json', '--', '--help'],
      stdin: 'in',
      stdin_encoding: 'utf8',
      user: 'bob',
      cwd: '/srv',
      umask: '027',
      env: { A: '1=2', HOME_IS: 'here' },
      timeout_sec: 900,
      grace_sec: 3,
    },
    targets: ['web-1', 'site=fra'],
    priority: 'high',
    delivery: 'at-least-once',
    max_retries: 2,
    ttl_sec: 7200,
    scheduled_at: '2026-12-31T23:00:00.000Z',
    idempotency_key: 'k',
    correlation_id: 'c',
    output_limit_bytes: 0,
  });
  expect(server.requests[0]?.headers.authorization).toBe('Bearer aegis_1_secret');
});

test('a verb takes its parameters by name', async () => {
  await using server = await scriptedServer({ [SUBMIT]: (_, response) => reply(response, answer(1), 202) });
  const args = [
    '--arg',
    'all=true',
    '--arg',
    'name=web',
    '--arg',
    'tail=5',
    '--arg',
    'id:="7"',
    '--arg',
    'env={"A":"b"}',
  ];
  await cli.run(['submit', '-t', 'web-1', '-d', '--verb', 'docker.run', ...args], {
    env: { AEGIS_SERVER: server.url },
  });
  const { idempotency_key, ...body } = JSON.parse(server.requests[0]?.body ?? '');
  expect(idempotency_key).toMatch(/^[0-9a-f-]{36}$/);
  expect(body).toEqual({
    verb: 'docker.run',
    args: { all: true, name: 'web', tail: 5, id: '7', env: { A: 'b' } },
    targets: ['web-1'],
  });
});

test.each([
  [['submit', '--', 'true'], 'Missing required flag target. See --help.'],
  [['submit', '-t', 'x'], "Nothing to run: write the command after --, or use --shell 'STRING' or --verb VERB."],
  [['submit', '-t', 'x', '--'], 'Nothing follows --; write the command there.'],
  [['submit', '-t', 'x', '--shell', 'a', '--', 'b'], 'Give one of: a command after --, --shell, --verb.'],
  [['submit', '-t', 'x', 'ls', '-l'], 'Nonexistent flag: -l. See --help.'],
  [['submit', '-t', 'x', 'ls'], 'Write the command after --: aegis submit --target … -- ls'],
  [['submit', '-t', 'x', '--timeout', 'soon', '--', 'a'], '--timeout soon: not a time; write 90, 90s, 15m, 2h or 7d.'],
  [
    ['submit', '-t', 'x', '--token', 'aegis_1_secret', '--', 'a'],
    "A token on the command line can be read by everyone on this machine. Put it into AEGIS_TOKEN, a file (--token-file) or a context ('aegis context set').",
  ],
])('%j is wrong usage', async (args, sentence) => {
  const { code, stdout, stderr } = await cli.run(args);
  expect({ code, stdout: String(stdout), stderr }).toEqual({ code: 2, stdout: '', stderr: `aegis: ${sentence}\n` });
});
