import { connect } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { faultsIn } from '../fleet/database.ts';
import { startFleet } from '../fleet/fleet.ts';
import { fuzz } from '../fleet/fuzzer.ts';
import { memoryOf } from '../fleet/memory.ts';
import { allEndpoints, stage } from '../fleet/samples.ts';

/** Random and mutated requests against a server process (AEGIS_FUZZ of them, AEGIS_SEED to repeat a run): it stays up, answers only
 *  what it may, and its database stays consistent. */

const COUNT = Number(process.env.AEGIS_FUZZ ?? 100_000);
const SEED = Number(process.env.AEGIS_SEED ?? 1);
/** The requests of one part find everything still there: what they retire, cancel and end is made anew for the next. */
const PART = 5000;
const OPEN_LIMITS = {
  AEGIS_RATE_LIMITS_TOKEN_BURST: '1000000',
  AEGIS_RATE_LIMITS_ADDRESS_BURST: '1000000',
  AEGIS_RATE_LIMITS_FAILED_AUTH_BURST: '1000000',
  AEGIS_RATE_LIMITS_ENROLMENT_BURST: '1000000',
  AEGIS_RATE_LIMITS_ENROLMENT_PENDING: '10000',
};

test(`${COUNT} requests`, async () => {
  await using fleet = await startFleet({ startDaemons: false, env: OPEN_LIMITS });
  const dataDir = join(fleet.folder, 'server');
  const endpoints = await allEndpoints();
  const byStatus: Record<string, number> = {};
  for (let done = 0; done < COUNT; done += PART) {
    const staged = await stage(fleet.url, fleet.token);
    const outcome = await fuzz({ staged, endpoints, count: Math.min(PART, COUNT - done), seed: SEED + done });
    expect(outcome.faults).toEqual([]);
    expect(fleet.server.running).toBe(true);
    for (const [status, count] of Object.entries(outcome.byStatus)) byStatus[status] = (byStatus[status] ?? 0) + count;
  }
  console.log(
    `seed ${SEED}, answers by status: ${JSON.stringify(byStatus)}, server at most ${memoryOf(fleet.server.pid).peakMb} MB`,
  );
  expect(memoryOf(fleet.server.pid).peakMb).toBeLessThan(400);
  expect(faultsIn(dataDir)).toEqual([]);
  expect(fleet.server.log()).not.toMatch(/http\.internal|unhandled|uncaught/i);
  expect(await fleet.server.stop()).toBe(0);
  await fleet.server.start();
  expect((await fleet.api.call('GET', '/healthz')).status).toBe(200);
}, 3_600_000);

test('connections that never finish are cut: headers within 60 s, a body within 160 s', async () => {
  await using fleet = await startFleet({ startDaemons: false });
  const { hostname, port } = new URL(fleet.url);
  const cutAfter = (text: string): Promise<{ sec: number; answer: string }> =>
    new Promise((resolve, reject) => {
      const begun = performance.now();
      let answer = '';
      const socket = connect(Number(port), hostname, () => socket.write(text));
      const drip = setInterval(() => socket.writable && socket.write('a'), 1000);
      socket.on('data', (bytes) => {
        answer += bytes;
      });
      socket.on('error', reject);
      socket.on('close', () => {
        clearInterval(drip);
        resolve({ sec: (performance.now() - begun) / 1000, answer });
      });
    });
  const [headers, body] = await Promise.all([
    cutAfter('GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: '),
    cutAfter(
      `POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${fleet.token}\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"`,
    ),
  ]);
  expect(headers.sec).toBeLessThan(60);
  expect(headers.answer).toMatch(/^HTTP\/1\.1 408 /);
  expect(body.sec).toBeLessThan(160);
}, 300_000);
