import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { startTcpRelay, type TcpRelay } from '../faults/tcp-relay.ts';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, daemonArgv, type Fleet, startFleet } from '../fleet/fleet.ts';

/** What is promised of a message: its node has it at least once, its hook runs once, unless the daemon or its machine dies while it runs. Real
 *  server, real daemon, real hooks; either dies at each commit of a message's life, by `kill -9` of itself. */

let place: string;
let fleet: Fleet;
let relay: TcpRelay;
let daemon: ManagedProcess;

/** Notes that it began and ended, by the message's id; waits in between where the message says so. */
const HOOK = `cd "$1" || exit 1
echo "begin" >>"$AEGIS_MESSAGE_ID"
message=$(cat)
case "$message" in *wait*) while [ ! -e go ]; do sleep 0.02; done;; esac
echo "end" >>"$AEGIS_MESSAGE_ID"
echo "$message" >>order
printf '%s' "$message"`;

beforeAll(async () => {
  place = mkdtempSync(join(tmpdir(), 'aegis-messages-'));
  const hook = { argv: ['/bin/sh', '-c', HOOK, 'hook', place] };
  const env = { AEGIS_HOOKS: JSON.stringify({ one: hook, two: hook }), AEGIS_MESSAGES_RETRY_ATTEMPTS: '20' };
  fleet = await startFleet({ startDaemons: false, env });
  relay = await startTcpRelay(fleet.url);
  const dataDir = join(fleet.folder, 'web-1');
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const joinToken = await fleet.api.call('POST', '/api/v1/join-tokens', { uses: 1 });
  daemon = managedProcess(
    'web-1',
    daemonArgv({ dataDir, server: relay.url, name: 'web-1' }),
    join(fleet.folder, 'messages.log'),
    cleanEnv(fleet.folder, { ...env, AEGIS_JOIN_TOKEN: (joinToken.body as { join_token: string }).join_token }),
  );
  await daemon.start();
}, 60_000);
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await relay[Symbol.asyncDispose]();
  await fleet[Symbol.asyncDispose]();
  rmSync(place, { recursive: true, force: true });
});

const log = (): string => daemon.log().slice(-3000);
const connected = (is = true) =>
  waitFor(
    `the channel to be ${is ? 'up' : 'down'}`,
    async () => {
      const { body } = await fleet.api.call('GET', '/api/v1/agents/web-1/status').catch(() => ({ body: null }));
      return (body as { connected?: boolean } | null)?.connected === is;
    },
    40_000,
    log,
  );
const send = async (body: object = {}): Promise<string> => {
  const { status, body: answer } = await fleet.api.call('POST', '/api/v1/agents/web-1/send', {
    channel: 'one',
    message: { say: 'hello' },
    ...body,
  });
  expect(status).toBe(200);
  return (answer as { message_id: string }).message_id;
};
const view = async (id: string) =>
  (await fleet.api.call('GET', `/api/v1/agents/web-1/messages/${id}`)).body as { state: string; reply?: string };
const delivered = (id: string) =>
  waitFor(
    'the message to be delivered',
    async () => {
      const { state } = await view(id).catch(() => ({ state: 'away' }));
      if (state === 'failed' || state === 'expired') throw new Error(`it ${state}`);
      return state === 'delivered';
    },
    60_000,
    log,
  );
const runs = (id: string): string[] => readFileSync(join(place, id), 'utf8').trim().split('\n');

test('a message reaches its hook, and the reply the operator', async () => {
  await connected();
  const { status, body } = await fleet.api.call('POST', '/api/v1/agents/web-1/send', {
    channel: 'one',
    message: { say: 'ä' },
    timeout_sec: 30,
  });
  expect([status, body]).toEqual([
    200,
    { message_id: expect.any(String), status: 'sent', state: 'delivered', reply: '{"say":"ä"}' },
  ]);
  const none = await fleet.api.call('POST', '/api/v1/agents/web-1/send', {
    channel: 'three',
    message: {},
    timeout_sec: 30,
  });
  expect(none.body).toMatchObject({ status: 'failed', error: { code: 'channel.no_handler' } });
}, 60_000);

test('the command line says it, waits, and prints what the hook replied', async () => {
  const run = promisify(execFile);
  const env = cleanEnv(fleet.folder, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token });
  const cli = async (...args: string[]) => {
    const { stdout, stderr } = await run(aegis, args, { env });
    return [stdout, stderr];
  };
  const failing = (...args: string[]) =>
    cli(...args).catch(({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => [
      code,
      stdout,
      stderr,
    ]);
  expect(await cli('channel', 'send', 'web-1', 'one', '--data', '{"say":"ä"}')).toEqual(['{"say":"ä"}', '']);
  const [sent = ''] = await cli('channel', 'send', 'web-1', 'one', '--data', '{"n":1}', '--type', 'event', '--json');
  const answer = JSON.parse(sent) as { message_id: string };
  expect(answer).toEqual({ message_id: expect.any(String), status: 'sent', state: 'delivered', reply: '{"n":1}' });
  const [shown = ''] = await cli('channel', 'show', 'web-1', answer.message_id, '--json');
  expect(JSON.parse(shown)).toMatchObject({ channel: 'one', message_type: 'event', state: 'delivered', retries: 0 });
  expect((await cli('channel', 'show', 'web-1', answer.message_id))[0]).toMatch(/^state: +delivered$/m);
  const [id = ''] = await cli('channel', 'send', 'web-1', 'two', '--detach', '--ttl', '5m');
  await delivered(id.trim());
  const [all = ''] = await cli('channel', 'broadcast', 'two', '--json');
  expect(JSON.parse(all)).toEqual({ message_id: expect.any(String), sent_to: ['web-1'], failed: [] });
  const [status = ''] = await cli('channel', 'status', 'web-1', '--json');
  expect(JSON.parse(status)).toMatchObject({ agent_id: 'web-1', connected: true });
  expect((await cli('channel', 'status', 'web-1'))[0]).toMatch(/^connected: +yes$/m);
  expect(await failing('channel', 'send', 'web-1', 'three')).toEqual([
    1,
    '',
    expect.stringContaining('no hook for this channel'),
  ]);
  expect(await failing('channel', 'send', 'web-1', 'logs')).toEqual([2, '', expect.stringContaining("Aegis' own")]);
  expect(await failing('channel', 'send', 'web-1', 'one', '--data', '[]')).toEqual([
    2,
    '',
    expect.stringContaining('JSON object'),
  ]);
}, 60_000);

test.each([
  'server.before-commit.messages.claim',
  'server.after-commit.messages.claim',
  'server.before-commit.messages.finish',
  'server.after-commit.messages.finish',
])(
  'the server dies at %s: the hook ran once',
  async (point) => {
    await fleet.server.kill9();
    await fleet.server.start({ AEGIS_CRASH_AT: `${point}#1` });
    await daemon.kill9(); // it would wait longer after each death
    await daemon.start();
    await connected();
    const id = await fleet.api
      .call('POST', '/api/v1/agents/web-1/send', { channel: 'one', message: { point } })
      .then(({ body }) => (body as { message_id: string }).message_id)
      .catch(() => null);
    await fleet.server.gone();
    await fleet.server.start();
    // It may have died before it said the id.
    const name = id ?? (await waitForOne(point));
    await delivered(name);
    expect(runs(name)).toEqual(['begin', 'end']);
  },
  120_000,
);
/** Its id, from the marker that its hook leaves. */
const waitForOne = async (point: string): Promise<string> => {
  await waitFor('the hook to run', () => readFileSync(join(place, 'order'), 'utf8').includes(point), 60_000, log);
  const newest = readdirSync(place)
    .filter((name) => /^[0-9a-f-]{36}$/.test(name))
    .sort()
    .at(-1);
  return newest ?? '';
};

test.each([
  'daemon.before-commit.message-begin',
  'daemon.after-commit.message-begin',
  'daemon.before-commit.message-end',
  'daemon.after-commit.message-end',
])(
  'the daemon dies at %s',
  async (point) => {
    await daemon.kill9();
    await daemon.start({ AEGIS_CRASH_AT: `${point}#1` });
    await connected();
    const id = await send({ message: { point } });
    await daemon.gone();
    await daemon.start();
    await delivered(id);
    // Its end is what was not on disk: to the daemon that comes back it may have been cut off, so it is run again.
    const twice = point === 'daemon.before-commit.message-end';
    expect(runs(id)).toEqual(twice ? ['begin', 'end', 'begin', 'end'] : ['begin', 'end']);
  },
  120_000,
);

test('the daemon dies while the hook runs: it is cut off, and run again, whole', async () => {
  await connected();
  const id = await send({ message: { wait: true } });
  await waitFor('the hook to run', () => readdirSync(place).includes(id), 30_000, log);
  await daemon.kill9();
  await daemon.start();
  await waitFor('the hook to run again', () => runs(id).length === 2, 60_000, log);
  writeFileSync(join(place, 'go'), '');
  await delivered(id);
  rmSync(join(place, 'go'));
  expect(runs(id)).toEqual(['begin', 'begin', 'end']);
}, 120_000);

test('a message changes from the channel to polls and back while its hook runs; others come by polls, in order', async () => {
  await connected();
  const begun = await send({ channel: 'two', message: { wait: 'two' } });
  await waitFor('the hook to run', () => readdirSync(place).includes(begun), 30_000, log);
  relay.blockChannels(true);
  await connected(false);
  const ids: string[] = [];
  for (let n = 0; n < 5; n++) ids.push(await send({ message: { n } }));
  await delivered(ids.at(-1) ?? '');
  const held = await send({ message: { wait: 'one' } });
  await waitFor('the hook to run', () => readdirSync(place).includes(held), 30_000, log);
  relay.blockChannels(false);
  await connected();
  await sleep(200); // it is given the messages again over the channel, while their hooks run: nothing shows that
  writeFileSync(join(place, 'go'), '');
  await delivered(begun);
  await delivered(held);
  for (const id of [begun, held, ...ids]) expect(runs(id)).toEqual(['begin', 'end']);
  const order = readFileSync(join(place, 'order'), 'utf8');
  expect(order).toContain([0, 1, 2, 3, 4].map((n) => `{"n":${n}}\n`).join(''));
}, 120_000);
