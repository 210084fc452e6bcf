import { showTrust } from '@aegis/protocol/access/endpoints';
import { ackCommands } from '@aegis/protocol/commands/endpoints';
import { listAgents } from '@aegis/protocol/nodes/endpoints';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HandClock, handClock, startTestServer, type TestServer } from './start-test-server.ts';
import type { Received, TestClient } from './test-client.ts';

/** Who asks too often is told when to come again, and nobody else notices. A proxy in front says where requests come from. */

let clock: HandClock;
let server: TestServer;
beforeEach(async () => {
  clock = handClock();
  server = await startTestServer({
    clock,
    config: {
      behind_proxy: ['127.0.0.1'],
      listen: ['127.0.0.1:0=all', '127.0.0.1:0=api'],
      rate_limits_token_burst: 3,
      rate_limits_token_per_sec: 1,
      rate_limits_address_burst: 5,
      rate_limits_address_per_sec: 2,
      rate_limits_failed_auth_burst: 2,
      rate_limits_failed_auth_per_sec: 1,
    },
  });
});
afterEach(() => server.close());

const from = (address: string) => ({ headers: { 'x-forwarded-for': address } });
const asks = (client: TestClient, address: string): Promise<Received> => client.send(listAgents, from(address));
const statuses = async (count: number, ask: (at: number) => Promise<Received>): Promise<number[]> => {
  const seen: number[] = [];
  for (let at = 0; at < count; at += 1) seen.push((await ask(at)).status);
  return seen;
};
const told = ({ status, headers, json }: Received) => [status, headers.get('retry-after'), json];
const limited = (answer: Received, sec: number) => {
  const request_id = answer.headers.get('x-request-id');
  const message = `Too many requests. Try again in ${sec} s.`;
  expect(told(answer)).toEqual([
    429,
    String(sec),
    { error: { code: 'http.rate_limited', message, details: {} }, request_id },
  ]);
};

test('one token: so many at once, then so many a second, from wherever', async () => {
  const viewer = server.as('viewer');
  expect(await statuses(3, (at) => asks(viewer, `192.0.2.${at}`))).toEqual([200, 200, 200]);
  limited(await asks(viewer, '192.0.2.9'), 1);
  // What a role may not do counts as well.
  expect((await viewer.raw('GET', '/api/v1/tokens', from('192.0.2.9'))).status).toBe(429);
  expect((await asks(server.as('operator'), '192.0.2.9')).status).toBe(200);
  clock.advance(2000);
  expect(await statuses(3, () => asks(viewer, '192.0.2.9'))).toEqual([200, 200, 429]);
});

test('one address, by /64 of IPv6: operators and whoever has no credential, not nodes', async () => {
  const node = await server.enrol('web-1'); // from the proxy's own address
  const trust = (address: string) => server.as('anyone').send(showTrust, from(address));
  expect(await statuses(5, (at) => trust(`2001:db8:0:1::${at}`))).toEqual([200, 200, 200, 200, 200]);
  limited(await trust('2001:db8:0:1:ffff::1'), 1);
  limited(await asks(server.as('viewer'), '2001:db8:0:1::7'), 1);
  // A bad credential, where none is needed, is none.
  expect((await server.withToken('garbage').send(showTrust, from('2001:db8:0:1::7'))).status).toBe(429);
  expect((await trust('2001:db8:0:2::1')).status).toBe(200);
  const acks = () => node.send(ackCommands, { body: { ids: [] }, ...from('2001:db8:0:1::7') });
  expect(await statuses(10, acks)).toEqual(Array<number>(10).fill(200));
  clock.advance(1000);
  expect(await statuses(3, () => trust('2001:db8:0:1::7'))).toEqual([200, 200, 429]);
});

test('bad credentials, harder: by address, whatever is tried; good ones go on', async () => {
  const forged = ['garbage', 'aegis_nothing', 'eyJhbGciOiJub25lIn0.e30.AA', 'eyJ', `aegis_${'0'.repeat(16)}_x`];
  const tries = (address: string) => (at: number) => asks(server.withToken(forged[at] ?? ''), address);
  expect(await statuses(5, tries('2001:db8::1'))).toEqual([401, 401, 429, 429, 429]);
  limited(await tries('2001:db8::2')(0), 1);
  expect(await statuses(2, tries('2001:db8:0:1::2'))).toEqual([401, 401]);
  expect((await asks(server.as('viewer'), '2001:db8::1')).status).toBe(200);
  clock.advance(1000);
  expect(await statuses(2, tries('2001:db8::1'))).toEqual([401, 429]);
});

test('addresses that are listened on share the limits of their process', async () => {
  const [one, other] = Object.values(server.running.addresses);
  expect(one === other).toBe(false);
  const ask = async (url = '') => (await fetch(`${url}/api/v1/trust`, from('192.0.2.1'))).status;
  expect([
    await ask(one),
    await ask(other),
    await ask(one),
    await ask(other),
    await ask(one),
    await ask(other),
  ]).toEqual([200, 200, 200, 200, 200, 429]);
});
