import type { LogLine } from '@aegis/protocol/commands/endpoints';
import { expect, test } from 'vitest';
import { cliOfFile, ran, refused } from './cli-process.ts';
import {
  answer,
  CANCEL,
  chunk,
  command,
  ended,
  execution,
  LOGS,
  lines,
  refuse,
  reply,
  type ScriptedServer,
  SUBMIT,
  scriptedServer,
  stream,
} from './scripted-server.ts';

/** `backups run` over what nodes write: how far they are, how they ended, and nodes that write something else. */

const cli = cliOfFile();
const RUN = '01981c2e-7f3a-7bd2-a4c1-00000000aaaa';

const progress = (more: Record<string, unknown> = {}) => ({
  type: 'progress',
  run_id: RUN,
  phase: 'archiving',
  attempt: 1,
  files: 12,
  bytes: 1_048_576,
  bytes_total: 4_194_304,
  bytes_per_sec: 1_048_576,
  archive_bytes: 10,
  uploaded_bytes: 0,
  errors: 0,
  path: '/etc/hosts',
  at: '2026-01-31T08:00:00Z',
  ...more,
});
const end = (more: Record<string, unknown> = {}) => ({
  type: 'run',
  run_id: RUN,
  state: 'completed',
  reason: null,
  totals: { files: 12, directories: 3, others: 0, bytes: 4_194_304, errors: 0 },
  archive_bytes: 1_048_576,
  duration_ms: 4000,
  errors: [],
  ...more,
});
const ndjson = (...all: unknown[]): string => all.map((one) => `${JSON.stringify(one)}\n`).join('');

const serving = (nodes: number, output: LogLine[]): Promise<ScriptedServer> =>
  scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(nodes), 202),
    [LOGS]: (_, response) => stream(response, lines(output)),
    [CANCEL]: (_, response) => reply(response, command('cancelled', {})),
  });
const run = (server: ScriptedServer, ...args: string[]) =>
  cli.text(['backups', 'run', 'etc', '--node', 'web-1', ...args], { env: { AEGIS_SERVER: server.url } });

test('what is submitted, what is shown without a terminal, and how it ended', async () => {
  const text = ndjson(
    progress({ phase: 'scanning', bytes_total: undefined }),
    progress(),
    progress({ bytes: 2_097_152 }),
    end(),
  );
  await using server = await serving(1, [
    // A character may be cut in two by a chunk's end, and so may a line.
    chunk(text.slice(0, 100), 0),
    chunk(text.slice(100), 100),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  const stdout = `NODE   STATE      FILES  SIZE     STORED   TOOK  RUN                                   NOTE
web-1  completed  12     4.0 MiB  1.0 MiB  4.0s  ${RUN}
`;
  expect(await run(server)).toEqual({ code: 0, stdout, stderr: '' });
  expect(await run(server, '--quiet')).toEqual({ code: 0, stdout: '', stderr: '' });
  expect(JSON.parse(server.requests[0]?.body ?? '')).toMatchObject({
    verb: 'backups.run',
    args: { config: 'etc', timeout_sec: 86_400 },
    targets: ['web-1'],
    idempotency_key: expect.any(String),
  });
  expect(await run(server, '--follow')).toEqual({
    code: 0,
    stdout,
    stderr: `web-1: scanning 1.0 MiB, 12 files, 1.0 MiB/s
web-1: archiving 25% of 4.0 MiB, 12 files, 1.0 MiB/s, 3.0s left
`,
  });
  const json = (await run(server, '--follow', '--json')).stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(json.map(({ type }) => type)).toEqual(['submitted', 'progress', 'progress', 'progress', 'run', 'result']);
  expect(json.at(-1)).toEqual({
    type: 'result',
    nodes: [{ ...end(), type: undefined, node: 'web-1' }].map(({ type: _, ...one }) => one),
  });
});

test('completed with errors is 3, and says which; a failure is 1', async () => {
  const errors = [{ path: 'etc/shadow\u001b[2J', code: 'EACCES', message: 'permission denied' }];
  const totals = { ...end().totals, errors: 1 };
  const partly = end({ state: 'completed_with_errors', totals, errors });
  await using server = await serving(1, [
    chunk(ndjson(partly), 0),
    ...ended([execution('failed', { exit_code: 3 })], 'failed'),
  ]);
  expect(await run(server)).toEqual({
    code: 3,
    stdout: `NODE   STATE                  FILES  SIZE     STORED   TOOK  RUN                                   NOTE
web-1  completed_with_errors  12     4.0 MiB  1.0 MiB  4.0s  ${RUN}  1 not as they are
`,
    stderr: 'aegis: etc/shadow: permission denied (EACCES)\n',
  });
  const refusal = { error: { code: 'backups.unknown_config', message: "This node has no backup 'etc'.", details: {} } };
  await using failing = await serving(2, [
    chunk(
      ndjson(
        end({ state: 'failed', totals: null, reason: { code: 'backups.hook_failed', message: 'The hook failed.' } }),
      ),
      0,
    ),
    chunk(ndjson(refusal), 0, { index: 2, stream: 'stderr' }),
    ...ended([execution('failed', { exit_code: 1 }), execution('failed', { index: 2, exit_code: 1 })], 'failed'),
  ]);
  expect(await run(failing)).toEqual({
    code: 1,
    stdout: `NODE   STATE   FILES  SIZE  STORED   TOOK  RUN                                   NOTE
web-1  failed               1.0 MiB  4.0s  ${RUN}  The hook failed.
web-2  failed                                                                    This node has no backup 'etc'.
`,
    stderr: '',
  });
});

test('a node that writes something else: no line of it is believed, none moves the cursor', async () => {
  const evil = '\u001b]0;owned\u0007';
  await using server = await serving(1, [
    chunk(
      `${evil}not json\n[]\n"run"\nnull\n{"type":"other"}\n${ndjson(
        progress({ phase: evil, bytes: 'many', bytes_total: -1, files: {}, path: evil, errors: [] }),
        end({
          state: evil,
          totals: 7,
          archive_bytes: '1',
          duration_ms: null,
          run_id: ['x'],
          reason: 'x',
          errors: [null, { path: 1 }],
        }),
      )}`,
      0,
    ),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  const said = await run(server, '--follow');
  expect(said.code).toBe(1);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal must not get any: the test looks for them
  expect(/[\x00-\x09\x0b-\x1f\x7f]/.test(said.stdout + said.stderr)).toBe(false);
});

test('a line without an end is not kept', async () => {
  const flood = Array.from({ length: 6 }, (_, index) => chunk(Buffer.alloc(1024 * 1024, 'x'), index * 1024 * 1024));
  await using server = await serving(1, [
    ...flood,
    chunk(`\n${ndjson(end())}`, 6 * 1024 * 1024),
    ...ended([execution('succeeded')], 'succeeded'),
  ]);
  expect(await run(server)).toMatchObject({ code: 0, stderr: '' });
});

test('a node that ends without a word', async () => {
  await using server = await serving(1, [
    chunk('Killed\n', 0, { stream: 'stderr' }),
    ...ended([execution('failed', { exit_code: null, signal: 'SIGKILL' })], 'failed'),
  ]);
  expect(await run(server)).toEqual({
    code: 1,
    stdout: `NODE   STATE   FILES  SIZE  STORED  TOOK  RUN  NOTE
web-1  failed                                  Killed
`,
    stderr: '',
  });
});

test('detach, and what the server refuses', async () => {
  await using server = await serving(1, []);
  expect(await run(server, '--detach')).toEqual({ code: 0, stdout: `${answer(1).command_id}\n`, stderr: '' });
  await using refusing = await scriptedServer({
    [SUBMIT]: (_, response) => refuse(response, 404, 'nodes.unknown_node', "No node 'web-1'."),
  });
  expect(await run(refusing)).toEqual(refused("No node 'web-1'.", 1));
});

test('Ctrl-C without a terminal cancels; a second one lets go', async () => {
  let held: Parameters<typeof stream>[0] | null = null;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => {
      held = response;
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      response.write(lines([chunk(ndjson(progress()), 0)]));
    },
    [CANCEL]: (_, response) => {
      reply(response, command('cancelled', {}));
      const refusal = { error: { code: 'cli.interrupted', message: 'It was told to stop.', details: {} } };
      held?.end(
        lines([
          chunk(ndjson(refusal), 0, { stream: 'stderr' }),
          ...ended([execution('cancelled', { exit_code: 130 })], 'cancelled'),
        ]),
      );
    },
  });
  const child = cli.start(['backups', 'run', 'etc', '--node', 'web-1', '--follow'], { AEGIS_SERVER: server.url });
  child.stderr?.once('data', () => child.kill('SIGINT'));
  const { code, stdout, stderr } = await ran(child);
  expect({ code, stdout: String(stdout), stderr }).toEqual({
    code: 130,
    stdout:
      'NODE   STATE      FILES  SIZE  STORED  TOOK  RUN  NOTE\nweb-1  cancelled                                  It was told to stop.\n',
    stderr: `web-1: archiving 25% of 4.0 MiB, 12 files, 1.0 MiB/s, 3.0s left
aegis: cancelling; Ctrl-C again lets go of it.
`,
  });
});
