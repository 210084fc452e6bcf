import { createHash, randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { startFleet } from '../fleet/fleet.ts';
import { startInteropNode } from './interop-node.ts';

/** The channel as docs/channel.md has it: a client in another language, written from that document, with a real server. */

const ROTATION = 5;
const PIECE_BYTES = 600 * 1024;
const WINDOW = 2 * 1024 * 1024;
const SIGNING = { AEGIS_CHANNEL_SIGN_MESSAGES: 'true' };

interface Way {
  messages: number;
  epoch: number;
}
interface State {
  out: Way;
  in: Way;
  heartbeats: number;
  sent: Record<string, number>;
  back: Record<string, number>;
}
interface Delivery {
  kind: string;
  command_id: string;
  execution_id: string;
  attempt: number;
  payload: unknown;
}
const resultOf = <T>(answer: Record<string, unknown>): T => {
  expect(Object.keys(answer)).toEqual(['result']);
  return answer.result as T;
};
const codeOf = (answer: Record<string, unknown>): string | undefined => (answer.error as { code?: string })?.code;
const summary = (bytes: Buffer) => ({
  bytes: bytes.length,
  sha256: createHash('sha256').update(bytes).digest('hex'),
});

test.each([
  ['without message signatures', {}, false],
  ['with message signatures', SIGNING, true],
])('a client written from the document does a command over the channel, %s', async (_, settings, signed) => {
  await using fleet = await startFleet({
    startDaemons: false,
    env: {
      AEGIS_CHANNEL_ROTATION_MESSAGES: String(ROTATION),
      AEGIS_CHANNEL_HEARTBEAT_SEC: '1',
      ...settings,
    },
  });
  await using node = await startInteropNode(fleet, 'pythonic');
  expect(await node.tell('connect', node.identity)).toEqual({ version: 1, signed });

  // The poll is held, and answered by the command that comes meanwhile.
  const polled = node.call('commands', 'pollCommands', { query: { wait: 30 } });
  const payload = { cmd: 'never run: the client makes the output up' };
  const run = await fleet.api.submit({
    targets: 'pythonic',
    output_limit_bytes: 0,
    command_type: 'RunCommand',
    payload,
  });
  const { commands } = resultOf<{ commands: Delivery[] }>(await polled);
  expect(commands.map(({ kind, command_id }) => ({ kind, command_id }))).toEqual([
    { kind: 'command.run', command_id: run.id },
  ]);
  const [{ command_id, execution_id, attempt }] = commands as [Delivery];
  const execution = { command_id, execution_id, attempt };
  expect(await node.call('commands', 'ackCommands', { body: { ids: [execution_id] } })).toEqual({
    result: { acknowledged: 1 },
  });
  const started_at = new Date().toISOString();
  const running = { ...execution, state: 'running', started_at };
  expect(resultOf<{ results: { state: string }[] }>(await node.tell('report', { fields: running })).results).toEqual([
    { execution_id, state: 'running', next: { stdout: 0, stderr: 0 } },
  ]);

  // More than a window of raw bytes, and text in chunks.
  const stdout = randomBytes(5 * PIECE_BYTES);
  for (let offset = 0; offset < stdout.length; offset += PIECE_BYTES) {
    const body = stdout.subarray(offset, offset + PIECE_BYTES).toString('base64');
    const params = { id: execution_id, stream: 'stdout' };
    expect(await node.call('logs', 'putOutput', { params, query: { offset }, body })).toEqual({
      result: { next: { stdout: offset + PIECE_BYTES, stderr: 0 } },
    });
  }
  const stderr = Buffer.from('grüße\n\u0000\n');
  const chunks = [
    { offset: 0, stream: 'stderr', data: 'grüße\n' },
    { offset: 8, stream: 'stderr', data: Buffer.from('\u0000\n').toString('base64'), encoding: 'base64' },
  ];
  const next = { stdout: stdout.length, stderr: stderr.length };
  expect(await node.call('logs', 'pushLogs', { body: { command_id, execution_id, chunks } })).toEqual({
    result: { next },
  });
  const ended = {
    ...execution,
    state: 'succeeded',
    exit_code: 0,
    started_at,
    finished_at: new Date().toISOString(),
    output: { stdout: summary(stdout), stderr: summary(stderr) },
  };
  expect(await node.tell('report', { fields: ended })).toEqual({
    result: { results: [{ execution_id, state: 'succeeded', next }] },
  });

  // The other channels; many calls at once.
  const desired = await Promise.all(Array.from({ length: 40 }, () => node.call('artifacts', 'nodeDesired')));
  expect(desired).toEqual(
    desired.map(() => ({
      result: { directives: [], operator_directives: [], revision: expect.any(Number), trust_version: 1 },
    })),
  );
  const params = { id: execution_id };
  expect(codeOf(await node.call('backups', 'backupRestoreSource', { params }))).toBe('backups.unknown_run');
  expect(codeOf(await node.call('telemetry', 'pushMetrics', { body: {} }))).toBe('channel.no_handler');
  expect(codeOf(await node.call('commands', 'noSuchCall'))).toBe('http.not_found');

  let state = (await node.tell('state')) as unknown as State;
  await waitFor('heartbeats and credit for all output', async () => {
    state = (await node.tell('state')) as unknown as State;
    return state.heartbeats >= 2 && state.back.logs === state.sent.logs;
  });
  expect(state.sent.logs).toBeGreaterThan(WINDOW);
  for (const way of [state.out, state.in]) {
    expect(way.messages).toBeGreaterThan(40);
    expect(way.epoch).toBe(Math.floor((way.messages - 1) / ROTATION));
  }

  // The whole result, where the operator sees it.
  expect(await run.finished()).toMatchObject([
    { node: 'pythonic', state: 'succeeded', exit_code: 0, execution_id, attempt },
  ]);
  expect((await run.command()).state).toBe('succeeded');
  expect(await run.stored('stdout')).toEqual(summary(stdout));
  expect(await run.stored('stderr')).toEqual(summary(stderr));

  // What operators say on a channel of their own, over more than one key.
  const send = async (body: object) =>
    (await fleet.api.call('POST', '/api/v1/agents/pythonic/send', { timeout_sec: 30, ...body })).body;
  for (let nth = 0; nth < ROTATION + 2; nth++) {
    const said = { type: nth % 2 ? 'event' : 'request', message: { nth, text: 'ä' }, nth };
    const answer = await send({ channel: 'echo', message: said.message, message_type: said.type });
    expect(answer).toEqual({
      message_id: expect.any(String),
      status: 'sent',
      state: 'delivered',
      reply: expect.any(String),
    });
    expect(JSON.parse((answer as { reply: string }).reply)).toEqual(said);
  }
  expect(await send({ channel: 'other', message: {} })).toMatchObject({ error: { code: 'channel.no_handler' } });
});

test('what the document forbids is refused: a wrong signature, a repeated message, a message that another key signed', async () => {
  await using fleet = await startFleet({ startDaemons: false, env: SIGNING });
  await using node = await startInteropNode(fleet, 'pythonic');
  expect(await node.tell('connect', { ...node.identity, wrong_signature: true })).toEqual({
    refused: {
      success: false,
      backend_key: '',
      session_token: '',
      expires_at: 0,
      message: expect.any(String),
      code: 'access.unauthenticated',
      closed: 4003,
    },
  });
  for (const attack of ['repeat', 'missign']) {
    expect(await node.tell('connect', node.identity)).toEqual({ version: 1, signed: true });
    resultOf(await node.call('artifacts', 'nodeDesired'));
    expect(await node.tell(attack)).toEqual({ closed: 4004 });
  }
});
