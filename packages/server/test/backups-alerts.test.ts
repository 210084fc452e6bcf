import { createHmac, timingSafeEqual } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assignConfig, deleteConfig } from '@aegis/protocol/backups/endpoints';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { loadServerConfig, shownConfig } from '../src/config.ts';
import { create, end, failedEnd, goodEnd, put, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Alerts: real receivers hear of failures, of absences, and that either is over. */

const SECRET = 'a secret of some length';
const HOUR = 3_600_000;

interface Heard {
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}
interface Receiver extends AsyncDisposable {
  url: string;
  heard: Heard[];
  /** Of the next answers; then 204. */
  statuses: number[];
  hang: boolean;
}
const startReceiver = async (): Promise<Receiver> => {
  const heard: Heard[] = [];
  const receiver: Receiver = {
    url: '',
    heard,
    statuses: [],
    hang: false,
    [Symbol.asyncDispose]: () => closed(server),
  };
  const server = createServer((request, answer) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      heard.push({ path: request.url ?? '', headers: request.headers, body: Buffer.concat(parts).toString('utf8') });
      if (receiver.hang) return;
      const status = receiver.statuses.shift() ?? 204;
      answer.writeHead(status, status < 400 && status >= 300 ? { location: '/elsewhere' } : {}).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  receiver.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  return receiver;
};
const closed = async (server: Server): Promise<void> => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
};
/** As a receiver should: the signature first. */
const opened = ({ headers, body }: Heard) => {
  const expected = createHmac('sha256', SECRET).update(`${headers['x-aegis-timestamp']}.${body}`).digest();
  const given = Buffer.from(String(headers['x-aegis-signature']).replace(/^sha256=/, ''), 'hex');
  expect(given.length === expected.length && timingSafeEqual(given, expected)).toBe(true);
  return JSON.parse(body) as Record<string, unknown> & { event: string; message: string; alert_id: string };
};

let receiver: Receiver;
let folder: string;
beforeEach(async () => {
  receiver = await startReceiver();
  folder = mkdtempSync(join(tmpdir(), 'aegis-alerts-'));
});
afterEach(async () => {
  await receiver[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});
const settings = (more: Record<string, unknown> = {}) => ({
  backups_alert_webhooks: [receiver.url],
  backups_alert_webhook_secret: SECRET,
  nodes_token_ttl_sec: 30 * 86_400,
  ...more,
});
const events = () => receiver.heard.map((one) => opened(one).event);
const hears = (count: number) => waitFor(`${count} alerts`, () => receiver.heard.length >= count);
const fail = async (node: EnrolledNode, id: string): Promise<string> => {
  const { run_id } = await start(node, starting(id));
  await end(node, run_id, failedEnd());
  return run_id;
};
const succeed = async (node: EnrolledNode, id: string): Promise<string> => {
  const grant = await start(node, starting(id));
  await end(node, grant.run_id, goodEnd(node, id, grant));
  return grant.run_id;
};
const waiting = (server: TestServer) => server.running.storage.read.selectFrom('backups_alerts').selectAll().execute();
const look = (server: TestServer) => server.running.backups.upkeep.absence.turn();

describe.each(STORAGES)('%s', (storage) => {
  test('each failure, and once that all is well again', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: settings() });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'] });
    const id = config.config_id;
    const at = new Date(clock.now()).toISOString();
    const first = await fail(node, id);
    await hears(1);
    expect(receiver.heard[0]).toMatchObject({
      path: '/hook',
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'x-aegis-timestamp': String(Math.floor(clock.now() / 1000)),
      },
    });
    expect(receiver.heard.map(opened)).toEqual([
      {
        alert_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        event: 'backup.failed',
        at,
        message: "The backup 'home' of 'web-1' failed: There is no /home.",
        config: { config_id: id, name: 'home' },
        node: { uid: node.uid, name: 'web-1' },
        run: {
          run_id: first,
          state: 'failed',
          started_at: at,
          finished_at: at,
          reason: { code: 'backups.no_source', message: 'There is no /home.' },
        },
        since: null,
      },
    ]);
    clock.advance(HOUR);
    await fail(node, id);
    clock.advance(HOUR);
    const good = await succeed(node, id);
    await succeed(node, id);
    await hears(3);
    expect(events()).toEqual(['backup.failed', 'backup.failed', 'backup.recovered']);
    expect(opened(receiver.heard[2] as Heard)).toMatchObject({ since: at, run: { run_id: good, state: 'completed' } });
    await waitFor('an empty queue', async () => (await waiting(server)).length === 0);
    expect(
      JSON.stringify(await server.running.storage.read.selectFrom('backups_incidents').selectAll().execute()),
    ).toBe('[]');
  });

  test('absence: once, also of a node that never ran, until a run succeeds or nothing is expected', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: settings() });
    const [one, two] = [await server.enrol('web-1'), await server.enrol('web-2')];
    const began = new Date(clock.now()).toISOString();
    const { config } = await create(server, { nodes: ['web-1', 'web-2'], alerts: { expect_within_sec: 7200 } });
    const id = config.config_id;
    clock.advance(HOUR);
    const goodAt = new Date(clock.now()).toISOString();
    await succeed(one, id);
    clock.advance(HOUR);
    await look(server);
    clock.advance(1000);
    await look(server);
    await look(server);
    await hears(1);
    expect(opened(receiver.heard[0] as Heard)).toMatchObject({
      event: 'backup.overdue',
      message: `The backup 'home' of 'web-2' has never succeeded since ${began}, and is expected every 7200 s.`,
      node: { uid: two.uid, name: 'web-2' },
      run: null,
      since: began,
    });
    clock.advance(HOUR);
    await look(server);
    await hears(2);
    expect(opened(receiver.heard[1] as Heard)).toMatchObject({
      event: 'backup.overdue',
      message: `The backup 'home' of 'web-1' last succeeded ${goodAt}, and is expected every 7200 s.`,
    });
    await fail(one, id); // a failure does not end it
    await look(server);
    await succeed(one, id);
    await hears(4);
    expect(events().slice(2)).toEqual(['backup.failed', 'backup.recovered']);
    // web-2 is taken off: nothing is expected of it, and nothing told.
    await server.as('operator').call(assignConfig, { params: { id }, body: { remove: ['web-2'] } });
    await look(server);
    clock.advance(3 * HOUR);
    await look(server);
    await hears(5);
    expect(opened(receiver.heard[4] as Heard)).toMatchObject({ event: 'backup.overdue', node: { name: 'web-1' } });
    await put(server, id, { nodes: ['web-1'], alerts: { expect_within_sec: 7200 }, paused: true });
    await look(server);
    await server.as('operator').call(deleteConfig, { params: { id } });
    await look(server);
    expect(await server.running.storage.read.selectFrom('backups_incidents').select('kind').execute()).toEqual([]);
    expect(receiver.heard).toHaveLength(5);
  });

  test('absence under many configurations: none is overlooked', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: settings() });
    await server.enrol('web-1');
    const names = Array.from({ length: 17 }, (_, at) => `home-${at}`);
    for (const name of names) await create(server, { name, nodes: ['web-1'], alerts: { expect_within_sec: 3600 } });
    await server.as('operator').call(deleteConfig, { params: { id: 'home-3' } });
    clock.advance(2 * HOUR);
    await look(server);
    await hears(16);
    const told = receiver.heard.map((one) => (opened(one).config as { name: string }).name);
    expect(told.sort()).toEqual(names.filter((name) => name !== 'home-3').sort());
  });

  test('a receiver that is away hears of it later, across a restart too, and each alert once', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock, config: settings({ backups_alert_timeout_sec: 1 }) });
    const node = await server.enrol('web-1');
    const { config } = await create(server, { nodes: ['web-1'] });
    receiver.statuses = [500, 302];
    await fail(node, config.config_id);
    const told = async (error: RegExp) =>
      waitFor(`a refusal ${error}`, async () => (await waiting(server)).some((row) => error.test(row.error ?? '')));
    await told(/^it was answered with status 500$/);
    expect((await waiting(server))[0]).toMatchObject({ tries: 1, next_at: clock.now() + 10_000 });
    clock.advance(10_000);
    await server.restart();
    await told(/^it was answered with a redirect \(302\), which is not followed$/);
    expect((await waiting(server))[0]).toMatchObject({ tries: 2, next_at: clock.now() + 20_000 });
    receiver.hang = true;
    clock.advance(20_000);
    await server.restart();
    await told(/^there was no answer within 1 s$/);
    receiver.hang = false;
    clock.advance(40_000);
    await server.restart();
    await waitFor('an empty queue', async () => (await waiting(server)).length === 0);
    expect(receiver.heard.map(({ path }) => path)).toEqual(Array(4).fill('/hook'));
    expect(new Set(receiver.heard.map((one) => opened(one).alert_id)).size).toBe(1);
    // One that never takes it is given up.
    receiver.statuses = Array(50).fill(503);
    await fail(node, config.config_id);
    await told(/503/);
    clock.advance(86_400_000);
    await server.restart();
    await waitFor('an empty queue', async () => (await waiting(server)).length === 0);
  });
});

test('a receiver that hangs holds up no other', async () => {
  await using other = await startReceiver();
  receiver.hang = true;
  await using server = await startTestServer({
    clock: handClock(),
    config: settings({ backups_alert_webhooks: [receiver.url, other.url], backups_alert_timeout_sec: 300 }),
  });
  const node = await server.enrol('web-1');
  const { config } = await create(server, { nodes: ['web-1'] });
  for (let at = 0; at < 12; at++) await fail(node, config.config_id);
  await waitFor('every alert at the other', () => other.heard.length === 12, 15_000);
  expect(receiver.heard.length).toBeGreaterThan(0);
  receiver.hang = false;
});

test('a command gets each alert on its standard input, in an environment of its own', async () => {
  const out = join(folder, 'out');
  const script = join(folder, 'alert.sh');
  // The first time it fails, saying why.
  writeFileSync(
    script,
    `#!/bin/sh\n[ -e "$1.again" ] || { : > "$1.again"; echo "no line" >&2; exit 7; }\ncat > "$1.part"; env >> "$1.part"; mv "$1.part" "$1"\n`,
  );
  chmodSync(script, 0o700);
  process.env.AEGIS_TEST_SECRET = 'of the server';
  const clock = handClock();
  await using server = await startTestServer({
    clock,
    config: { backups_alert_command: [script, out], nodes_token_ttl_sec: 86_400 },
  });
  const node = await server.enrol('web-1');
  const { config } = await create(server, { nodes: ['web-1'] });
  await fail(node, config.config_id);
  await waitFor('a refusal', async () => (await waiting(server)).some((row) => row.error !== null));
  expect(await waiting(server)).toMatchObject([{ target: 'command', error: 'it exited with 7: no line' }]);
  clock.advance(10_000);
  await server.restart();
  await waitFor('the command', () => existsSync(out));
  delete process.env.AEGIS_TEST_SECRET;
  const text = readFileSync(out, 'utf8');
  const [, json = '', environment = ''] = /^(\{.*\})([\s\S]*)$/.exec(text) ?? [];
  expect(JSON.parse(json)).toMatchObject({ event: 'backup.failed', node: { name: 'web-1' } });
  expect(environment).not.toContain('AEGIS_TEST_SECRET');
});

test('a command that hangs is stopped with what it started; one that is not there is told', async () => {
  const script = join(folder, 'hang.sh');
  writeFileSync(script, `#!/bin/sh\nsleep 1000 & echo $! > ${folder}/child\nwait\n`);
  chmodSync(script, 0o700);
  await using server = await startTestServer({
    config: { backups_alert_command: [script], backups_alert_timeout_sec: 1 },
  });
  const node = await server.enrol('web-1');
  const { config } = await create(server, { nodes: ['web-1'] });
  await fail(node, config.config_id);
  await waitFor('its end', async () => (await waiting(server)).some((row) => row.error !== null));
  expect(await waiting(server)).toMatchObject([{ error: 'it was stopped after 1 s' }]);
  const child = Number(readFileSync(join(folder, 'child'), 'utf8'));
  await waitFor('the end of what it started', () => !existsSync(`/proc/${child}`));
  await using other = await startTestServer({ config: { backups_alert_command: ['/no/such/program'] } });
  const web = await other.enrol('web-1');
  const made = await create(other, { nodes: ['web-1'] });
  await fail(web, made.config.config_id);
  await waitFor('its end', async () => (await waiting(other)).some((row) => row.error !== null));
  expect(await waiting(other)).toMatchObject([{ error: 'it cannot be started (ENOENT)' }]);
});

test('on_failure = false tells nothing; the queue is bounded, and says so', async () => {
  const logged: string[] = [];
  const log = (level: string) => (_: unknown, text: string) => void logged.push(`${level} ${text}`);
  receiver.statuses = Array(100).fill(503);
  await using server = await startTestServer({
    clock: handClock(),
    config: settings({ backups_max_alerts: 2 }),
    log: {
      trace: log('trace'),
      debug: log('debug'),
      info: log('info'),
      warn: log('warn'),
      error: log('error'),
    } as never,
  });
  const node = await server.enrol('web-1');
  const quiet = await create(server, { name: 'quiet', nodes: ['web-1'], alerts: { on_failure: false } });
  await fail(node, quiet.config.config_id);
  expect(await waiting(server)).toEqual([]);
  const { config } = await create(server, { nodes: ['web-1'] });
  for (let at = 0; at < 3; at++) await fail(node, config.config_id);
  expect(await waiting(server)).toHaveLength(2);
  expect(logged.filter((line) => line.startsWith('error'))).toEqual([
    'error an alert is not sent: as many wait as may (backups.max_alerts)',
  ]);
});

test('settings: refused with what is allowed, and shown without secrets', () => {
  const load = (flags: Record<string, unknown>) => loadServerConfig({ flags: { dev: true, ...flags }, env: {} });
  const url = 'https://hooks.example.com/T0/secret-path';
  for (const [flags, wanted] of [
    [
      { backups_alert_webhooks: ['ftp://example.com/'] },
      /^backups\.alert_webhooks: \(secret\) \(flag\) is not allowed/,
    ],
    [{ backups_alert_webhooks: ['https://a:b@example.com/'] }, /^backups\.alert_webhooks: /],
    [{ backups_alert_webhooks: [url] }, /^backups\.alert_webhook_secret: \(secret\) \(default\) is not allowed/],
    [{ backups_alert_webhook_secret: 'short' }, /^backups\.alert_webhook_secret: \(secret\)/],
    [{ backups_alert_command: ['mail', 'me'] }, /^backups\.alert_command: \["mail","me"\] \(flag\) is not allowed/],
  ] as const)
    expect(() => load(flags)).toThrow(wanted);
  const shown = shownConfig(load({ backups_alert_webhooks: [url], backups_alert_webhook_secret: SECRET }));
  expect(shown.filter(({ key }) => key.startsWith('backups.alert_webhook')).map(({ value }) => value)).toEqual([
    '(secret)',
    '(secret)',
  ]);
});
