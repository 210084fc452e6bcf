import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { healthz } from '@aegis/protocol/nodes/endpoints';
import { afterAll, expect, test } from 'vitest';
import { makeCertificate } from '../../../test/fleet/certificate.ts';
import { startPostgres } from './postgres.ts';
import { startTestServer } from './start-test-server.ts';

/** The server's process from outside: ready line, exit codes, signals, the stop, TLS, health. */

const folder = mkdtempSync(join(tmpdir(), 'aegis-process-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const PROCESS = fileURLToPath(new URL('./server-process.ts', import.meta.url));
const start = (flags: Record<string, unknown>) => {
  const child = spawn(process.execPath, [PROCESS, JSON.stringify(flags)], { env: { PATH: process.env.PATH } });
  let log = '';
  child.stderr.on('data', (bytes) => {
    log += bytes;
  });
  return { child, log: () => log, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
};
const exit = async (child: ReturnType<typeof spawn>) => {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.exitCode;
};

test('--dev is ready in one line, serves, says loudly what it is, and leaves nothing behind', async () => {
  const { child, log, lines } = start({
    dev: true,
    jwt_signing_secret: 'hunter2',
    listen: ['127.0.0.1:0=all', '127.0.0.1:0=actions'],
  });
  const { value } = await lines.next();
  const ready = JSON.parse(value ?? '') as { ready: boolean; addresses: Record<string, string> };
  expect(ready).toEqual({
    ready: true,
    addresses: { all: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/), actions: expect.stringMatching(/^http:/) },
  });
  expect((await fetch(`${ready.addresses.all}/agents`)).status).toBe(200);
  child.kill('SIGTERM');
  expect(await exit(child)).toBe(0);
  expect((await lines.next()).done).toBe(true);
  const dataDir = /"data_dir":"([^"]+)"/.exec(log())?.[1] ?? '';
  expect(log()).toMatch(/is admin, without any credential/);
  expect(log()).toMatch(/jwt_signing_secret is shorter than 32 bytes/);
  expect(log()).not.toContain('hunter2');
  expect(dataDir).toContain('aegis-dev-');
  expect(existsSync(dataDir)).toBe(false);
});

test('a start that cannot be says why on standard error, with its exit code', async () => {
  const { child, log } = start({ data_dir: join(folder, 'none') });
  expect(await exit(child)).toBe(2);
  expect(JSON.parse(log())).toMatchObject({
    error: { code: 'config.invalid', message: expect.stringContaining("Run 'aegis server init") },
  });
});

test('a stop answers waiting polls with when to come back, refuses new requests with 503, and ends', async () => {
  const server = await startTestServer();
  const node = await server.enrol('web-1');
  const polls = [1, 2].map(() => node.call(pollCommands, { query: { wait: 60 } }));
  await Promise.race(polls); // the later one supersedes the earlier, which tells that it waits
  const closing = server.close();
  const answers = await Promise.all(polls);
  expect(answers.flatMap(({ retry_after_ms }) => retry_after_ms ?? [])).toEqual([expect.any(Number)]);
  await closing;
  await expect(node.send(pollCommands)).rejects.toThrow();
});

test('health asks the database', async () => {
  await using cluster = await startPostgres();
  await using server = await startTestServer({ databaseUrl: await cluster.createDatabase() });
  expect(await server.as('anyone').call(healthz)).toMatchObject({ status: 'healthy' });
  await cluster.stop();
  await expect
    .poll(async () => (await server.as('anyone').send(healthz)).status, { timeout: 20_000, interval: 100 })
    .toBe(503);
  expect((await server.as('anyone').send(healthz)).json).toMatchObject({ status: 'unhealthy', failing: ['storage'] });
});

test('TLS with the given certificate', async () => {
  const { keyFile, certFile, cert } = makeCertificate(folder);
  await using server = await startTestServer({ config: { tls_cert: certFile, tls_key: keyFile } });
  expect(server.url).toMatch(/^https:/);
  const answer = await new Promise<{ status: number | undefined; hsts: unknown }>((resolve, reject) => {
    request(`${server.url}/healthz`, { ca: cert }, (received) => {
      received.resume();
      resolve({ status: received.statusCode, hsts: received.headers['strict-transport-security'] });
    })
      .on('error', reject)
      .end();
  });
  expect(answer).toEqual({ status: 200, hsts: 'max-age=31536000' });
});
