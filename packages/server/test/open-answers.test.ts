import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { revokeToken as revokeThere } from '../src/offline.ts';
import { submitTo } from './commands-support.ts';
import { type HandClock, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Answers that go on for as long as somebody reads are cut when the token that asked for them ends, and no others. */

describe.each(['sqlite', 'postgres'] as const)('on %s', (storage) => {
  let clock: HandClock;
  let server: TestServer;
  /** On the same database where there may be one. */
  let other: TestServer;
  let path: string;
  beforeAll(async () => {
    clock = handClock();
    server = await startTestServer({ storage, clock });
    const { dataDir, databaseUrl } = server;
    other = databaseUrl === undefined ? server : await startTestServer({ storage, clock, dataDir, databaseUrl });
    await server.enrol('n');
    path = `/api/v1/commands/${(await submitTo(server, 'n', { ttl_sec: 86_400 })).commandId}/logs?follow=1`;
  });
  afterAll(async () => {
    if (other !== server) await other.close();
    await server.close();
  });

  const token = (ttl_sec = 3600) =>
    server.as('admin').call(createToken, { body: { name: 'reader', role: 'viewer', ttl_sec } });
  const KINDS = ['application/x-ndjson', 'text/event-stream', 'application/octet-stream&stream=stdout'];
  const follow = async (at: TestServer, bearer: string, kind: string) => {
    const [accept = '', more = ''] = kind.split('&');
    const answer = await fetch(`${at.url}${path}&${more}`, { headers: { accept, authorization: `Bearer ${bearer}` } });
    expect(answer.status).toBe(200);
    let ended: string | null = null;
    // An orderly end would say that this is all there is.
    const end = answer.text().then(
      () => 'whole',
      () => 'cut',
    );
    void end.then((how) => {
      ended = how;
    });
    return { end, ended: () => ended };
  };

  const ends: Record<string, (id: string) => unknown> = {
    'is revoked': (id) => server.as('admin').call(revokeToken, { params: { id } }),
    'is revoked without a server': (id) =>
      revokeThere({ dataDir: server.dataDir, databaseUrl: server.databaseUrl, clock, id }),
    'has come to its end': () => clock.advance(600_000),
  };
  test.each(Object.entries(ends))('cut when the token %s', async (what, end) => {
    const [mine, theirs] = [await token(what.includes('end') ? 300 : 3600), await token()];
    const own = await Promise.all(KINDS.map((kind) => follow(other, mine.token, kind)));
    const others = await Promise.all(KINDS.map((kind) => follow(other, theirs.token, kind)));
    await end(mine.id);
    expect(await Promise.all(own.map((one) => one.end))).toEqual(['cut', 'cut', 'cut']);
    expect(others.map((one) => one.ended())).toEqual([null, null, null]);
    await server.as('admin').call(revokeToken, { params: { id: theirs.id } });
    await Promise.all(others.map((one) => one.end));
  });
});
