import { FleetEvent } from '@aegis/protocol/events/event';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { issueToken } from '../src/offline.ts';
import { ack, finish, poll, STORAGES, submitTo } from './commands-support.ts';
import { readEventsFrom } from './events-support.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';

describe.each(STORAGES)('%s', (storage) => {
  let server: TestServer;
  let token: string;
  beforeEach(async () => {
    server = await startTestServer({ storage });
    token = await issueToken({
      dataDir: server.dataDir,
      databaseUrl: server.databaseUrl,
      role: 'viewer',
      name: 'reader',
    });
  });
  afterEach(() => server.close());

  test('a command is told state by state, live and again from any point', async () => {
    const node = await server.enrol('web-1');
    await using live = await readEventsFrom(server.url, token, { type: 'execution' });
    const ids = await submitTo(server, 'web-1');
    await poll(node);
    await ack(node, ids.executionId);
    await finish(node, ids);
    await live.wait('the end', (lines) => lines.length >= 3);
    expect(live.events().map(({ type }) => type)).toEqual([
      'execution.queued',
      'execution.delivered',
      'execution.succeeded',
    ]);
    for (const event of live.events()) expect(z.safeParse(FleetEvent, event).error).toBe(undefined);
    const [first] = live.events();
    await using again = await readEventsFrom(server.url, token, {
      type: 'execution',
      from: first?.id ?? '',
      follow: 'false',
    });
    await again.ended;
    expect(again.lines.slice(0, -1)).toEqual(live.lines.slice(1));
    expect(again.lines.at(-1)?.type).toBe('end');
  });
});
