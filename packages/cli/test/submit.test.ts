import type { LogLine } from '@aegis/protocol/commands/endpoints';
import type { Execution } from '@aegis/protocol/commands/submission';
import { expect, test } from 'vitest';
import { cliOfFile, ran } from './cli-process.ts';
import {
  answer,
  chunk,
  command,
  ended,
  execution,
  LOGS,
  lines,
  refuse,
  reply,
  SUBMIT,
  scriptedServer,
  stream,
} from './scripted-server.ts';

const cli = cliOfFile();

const oneNode = (all: readonly LogLine[]) =>
  scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => stream(response, lines(all)),
  });
const submit = ['submit', '--target', 'web-1'];

test.each<[string, Partial<Execution> & { state: Execution['state'] }, number, string]>([
  ['succeeded', { state: 'succeeded' }, 0, ''],
  ['its exit code', { state: 'failed', exit_code: 7 }, 7, ''],
  ['an exit code above 125', { state: 'failed', exit_code: 255 }, 255, ''],
  ['128+n', { state: 'failed', signal: 'SIGKILL' }, 137, ''],
  ['124', { state: 'timed_out', signal: 'SIGTERM' }, 124, 'aegis: web-1: timed out.\n'],
  [
    '251',
    { state: 'expired' },
    251,
    "aegis: web-1: expired before the node took it. Is its daemon running? See 'aegis nodes show web-1'.\n",
  ],
  [
    '252',
    { state: 'refused', error: { code: 'access.bad_signature', message: 'The signature is not good.' } },
    252,
    'aegis: web-1: refused. The signature is not good.\n',
  ],
  ['253', { state: 'lost' }, 253, 'aegis: web-1: lost: whether it ended, and how, is unknown.\n'],
  ['254', { state: 'failed' }, 254, 'aegis: web-1: failed.\n'],
  ['130', { state: 'cancelled' }, 130, 'aegis: web-1: cancelled.\n'],
])('one node: %s', async (_, end, code, stderr) => {
  const { state, ...more } = end;
  await using server = await oneNode(ended([execution(state, more)], state === 'succeeded' ? 'succeeded' : 'failed'));
  const result = await cli.run([...submit, '--', 'true'], { env: { AEGIS_SERVER: server.url } });
  expect({ ...result, stdout: String(result.stdout) }).toEqual({ code, signal: null, stdout: '', stderr });
});

const TOKENS =
  " Make a token with 'aegis server token' and put it into AEGIS_TOKEN, a file (--token-file) or a context.";
test.each<[number, string, number, string?]>([
  [401, 'access.unauthenticated', 252, TOKENS],
  [403, 'access.forbidden', 252],
  [422, 'commands.unknown_target', 2],
  [422, 'commands.no_target', 251],
  [503, 'commands.queue_full', 251],
  [500, 'http.internal', 254],
])('a refused submission: %i %s → %i', async (status, errorCode, code, next = '') => {
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => refuse(response, status, errorCode, 'Because.'),
  });
  const plain = await cli.run([...submit, '--', 'true'], { env: { AEGIS_SERVER: server.url } });
  expect({ ...plain, stdout: String(plain.stdout) }).toEqual({
    code,
    signal: null,
    stdout: '',
    stderr: `aegis: Because.${next}\n`,
  });
  const json = await cli.run([...submit, '--json', '--', 'true'], { env: { AEGIS_SERVER: server.url } });
  expect(JSON.parse(json.stderr)).toEqual({ error: { code: errorCode, message: `Because.${next}`, details: {} } });
});

test('a server that is not there is 251, and says so', async () => {
  const { code, stderr } = await cli.run([...submit, '--', 'true'], { env: { AEGIS_SERVER: 'http://127.0.0.1:9' } });
  expect({ code, stderr }).toEqual({
    code: 251,
    stderr:
      "aegis: Cannot reach the server at http://127.0.0.1:9 (nothing listens there). Start it with 'aegis server start', or name another with --server or AEGIS_SERVER.\n",
  });
});

const bytes = Buffer.from([0, 255, 254, 10, 13, 0xc3, 0x28, 0xf0, 0x9f, 0x98, 10, 0xe2, 0x82, 0xac, 27, 91, 50, 74]);

test('stdout and stderr leave byte for byte, invalid UTF-8 and a missing last line feed included', async () => {
  await using server = await oneNode([
    chunk(bytes, 0),
    chunk(bytes.subarray(0, 5), 0, { stream: 'stderr' }),
    chunk(bytes, bytes.length),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  const child = cli.start([...submit, '--', 'cat'], { AEGIS_SERVER: server.url });
  const stderr: Buffer[] = [];
  child.stderr?.on('data', (piece: Buffer) => stderr.push(piece));
  const { stdout, code } = await ran(child);
  expect(stdout).toEqual(Buffer.concat([bytes, bytes]));
  expect(Buffer.concat(stderr)).toEqual(bytes.subarray(0, 5));
  expect(code).toBe(0);
});

test('a stream that breaks at any byte is taken up again: nothing lost, nothing twice', async () => {
  const all = lines([
    chunk(bytes, 0),
    chunk(bytes, bytes.length),
    chunk('err', 0, { stream: 'stderr' }),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  const text = String(all);
  // One cut in each kind of place: at the start, within keys, data and numbers, before and after each line feed.
  const feeds = [...text.matchAll(/\n/g)].map(({ index }) => index);
  const cuts = [0, 1, 20, text.indexOf('"data"') + 9, ...feeds.slice(0, -1).flatMap((at) => [at, at + 1, at + 2])];
  let broken = 0;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const cut = cuts[broken++];
      // Sent from the start each time: the reader has to trim by itself, too.
      if (cut === undefined) response.end(all);
      else response.write(all.subarray(0, cut), () => response.socket?.resetAndDestroy());
    },
  });
  const result = await cli.run([...submit, '--', 'cat'], { env: { AEGIS_SERVER: server.url } });
  expect(result.stdout).toEqual(Buffer.concat([bytes, bytes]));
  expect(result.code).toBe(0);
  expect(
    result.stderr.replaceAll(/aegis: (lost the server; trying to reach it again|the server is back)\.\n/g, ''),
  ).toBe('err');
  expect(broken).toBe(cuts.length + 1);
  const resumed = server.requests.filter(({ path }) => path.endsWith('/logs')).map(({ query }) => query.get('from'));
  expect(resumed.at(-1)).toBe(
    `${execution('queued').execution_id}:stdout:${2 * bytes.length},${execution('queued').execution_id}:stderr:3`,
  );
});

test('a chunk that the server leaves out is announced, never silent', async () => {
  await using server = await oneNode([
    chunk('ab', 0),
    chunk('yz', 24),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  const { stdout, stderr, code } = await cli.run([...submit, '--', 'cat'], { env: { AEGIS_SERVER: server.url } });
  expect({ stdout: String(stdout), stderr, code }).toEqual({
    stdout: 'abyz',
    stderr: "aegis: 22 bytes of web-1's stdout are missing from byte 2 on (not sent by the server).\n",
    code: 0,
  });
});

test('a submission whose answer was lost is repeated under the same idempotency key', async () => {
  let lost = 0;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => {
      if (lost++ < 2) response.socket?.destroy();
      else reply(response, answer(1), 202);
    },
    [LOGS]: (_, response) => stream(response, lines(ended([execution('succeeded')], 'succeeded'))),
  });
  const { code } = await cli.run([...submit, '--', 'true'], { env: { AEGIS_SERVER: server.url } });
  const keys = server.requests
    .filter(({ method }) => method === 'POST')
    .map(({ body }) => JSON.parse(body).idempotency_key);
  expect(code).toBe(0);
  expect(keys).toHaveLength(3);
  expect(new Set(keys).size).toBe(1);
});

test('several nodes: whole lines behind node│, streams apart, a table at the end', async () => {
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(2), 202),
    [LOGS]: (_, response) =>
      stream(
        response,
        lines([
          chunk('one\ntw', 0),
          chunk('first\n', 0, { index: 2 }),
          chunk('o\nthree', 6),
          chunk('bad\n', 0, { index: 2, stream: 'stderr' }),
          ...ended([execution('succeeded'), execution('failed', { index: 2, exit_code: 3 })], 'partial'),
        ]),
      ),
  });
  const { code, stdout, stderr } = await cli.run(['submit', '-t', 'all', '--', 'true'], {
    env: { AEGIS_SERVER: server.url },
  });
  expect(String(stdout)).toBe('web-1│one\nweb-2│first\nweb-1│two\nweb-1│three\n');
  expect(stderr).toBe(
    `web-2│bad\nNODE   STATE      EXIT  TIME  NOTE\nweb-1  succeeded  0     2.5s\nweb-2  failed     3     2.5s\n1 of 2 succeeded. Output again: aegis logs ${command('partial', {}).command_id}\n`,
  );
  expect(code).toBe(1);
});

test('--json: a line for each chunk and state, the result last', async () => {
  await using server = await oneNode([
    chunk('hi\n', 0),
    chunk(Buffer.from([255]), 3),
    ...ended([execution('failed', { exit_code: 3 })], 'failed'),
  ]);
  const { code, stdout, stderr } = await cli.run([...submit, '--json', '--', 'true'], {
    env: { AEGIS_SERVER: server.url },
  });
  const out = String(stdout)
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(out.map(({ type, data, encoding }) => [type, data, encoding])).toEqual([
    ['submitted', undefined, undefined],
    ['chunk', 'hi\n', 'utf8'],
    ['chunk', '/w==', 'base64'],
    ['state', undefined, undefined],
    ['result', undefined, undefined],
  ]);
  const { execution_id, started_at, finished_at } = execution('failed');
  expect(out.at(-1)).toEqual({
    type: 'result',
    command_id: command('failed', {}).command_id,
    state: 'failed',
    executions: [
      {
        node: 'web-1',
        state: 'failed',
        exit_code: 3,
        signal: null,
        bytes: 0,
        started_at,
        finished_at,
        stdout_bytes: 0,
        stderr_bytes: 0,
        attempt: 1,
        execution_id,
        error: null,
      },
    ],
  });
  expect({ code, stderr }).toEqual({ code: 3, stderr: '' });
});
