import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { agentStatus, broadcastMessage, sendMessage, showMessage } from '@aegis/protocol/messages/endpoints';
import { pollMessages } from '@aegis/protocol/messages/node-endpoints';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { connectTo } from './messages-support.ts';
import { freshDatabase } from './shared-postgres.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** Messages where two server processes share a fleet: whoever is asked, the one that holds the connection carries. */

let dataDir: string;
let one: TestServer;
let other: TestServer;
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'aegis-two-servers-'));
  const databaseUrl = await freshDatabase();
  one = await startTestServer({ dataDir, databaseUrl });
  other = await startTestServer({ dataDir, databaseUrl });
});
afterAll(async () => {
  await Promise.all([one.close(), other.close()]);
  rmSync(dataDir, { recursive: true, force: true });
});

const status = (server: TestServer, node: EnrolledNode) =>
  server.as('viewer').call(agentStatus, { params: { id: node.name } });
const connected = (server: TestServer, node: EnrolledNode, is: boolean) =>
  vi.waitFor(async () => expect((await status(server, node)).connected).toBe(is), 10_000);
const send = (server: TestServer, node: EnrolledNode, body: object = {}) =>
  server
    .as('operator')
    .call(sendMessage, { params: { id: node.name }, body: { channel: 'x', message: { n: 1 }, ...body } });

test('a node at one is connected, sent to and broadcast to at the other, and moves', async () => {
  const [node, away] = [await one.enrol('web-1'), await one.enrol('web-2')];
  const here = await connectTo(one, node, { channels: ['x'] });
  await connected(other, node, true);
  const [ours, theirs] = [await status(one, node), await status(other, node)];
  expect(theirs).toEqual({ ...ours, last_seen: expect.any(String) });
  expect(theirs.channels.at(-1)).toBe('x');

  const asked = send(other, node, { timeout_sec: 20 });
  here.reply(await here.given(), { reply: 'over there' });
  expect(await asked).toMatchObject({ status: 'sent', state: 'delivered', reply: 'over there' });
  const unasked = await send(other, node);
  expect(unasked.status).toBe('sent');
  here.reply(await here.given(), null);
  const all = await other.as('operator').call(broadcastMessage, { body: { channel: 'x', message: { all: true } } });
  expect([all.sent_to, all.failed]).toEqual([['web-1'], ['web-2']]);
  const begun = await here.given();
  expect(begun.message_id).toBe(all.message_id);

  // It moves while it is at the message, which comes with it.
  const there = await connectTo(other, node);
  expect((await there.given()).message_id).toBe(all.message_id);
  await here.hangUp();
  await connected(one, node, true);
  const last = send(one, node, { timeout_sec: 20 });
  await there.hangUp();
  await connected(one, node, false);
  await connected(other, node, false);
  const back = await connectTo(one, node);
  for (const reply of ['all', 'last']) back.reply(await back.given(), { reply });
  expect(await last).toMatchObject({ state: 'delivered', reply: 'last' });
  const view = await other.as('viewer').call(showMessage, { params: { id: node.name, message_id: all.message_id } });
  expect([view.state, view.reply]).toEqual(['delivered', 'all']);
  await back.hangUp();
  expect((await status(other, away)).connected).toBe(false);
});

test('a poll that one holds is ended by what is sent at the other', async () => {
  const node = await one.enrol('web-3');
  const held = node.call(pollMessages, { query: { wait: 50 } });
  const sent = await send(other, node);
  expect((await held).messages.map((message) => message.message_id)).toEqual([sent.message_id]);
});

test('what a process that died said of its connections counts no more', async () => {
  const node = await one.enrol('web-4');
  const { storage } = one.running;
  const seenAt = async (id: string, ms: number) => {
    await storage.write('test', async (tx) => {
      const row = { id, seen_at: Date.now() - ms };
      await tx
        .insertInto('channel_servers')
        .values(row)
        .onConflict((conflict) => conflict.column('id').doUpdateSet(row))
        .execute();
    });
  };
  await seenAt('dead', 0);
  await storage.write('test', async (tx) => {
    const row = { session_token: 't', connected_at: 0, expires_at: Date.now() + 1e6, metadata: '{"channels":[]}' };
    await tx
      .insertInto('agent_connections')
      .values({ agent_id: node.uid, server_id: 'dead', ...row })
      .execute();
  });
  expect((await status(other, node)).connected).toBe(true);
  await seenAt('dead', 16_000);
  expect((await status(other, node)).connected).toBe(false);
  expect((await send(other, node)).status).toBe('queued');
  await seenAt('dead', 31_000);
  await vi.waitFor(async () => {
    const rows = await storage.read
      .selectFrom('agent_connections')
      .selectAll()
      .where('agent_id', '=', node.uid)
      .execute();
    expect(rows).toEqual([]);
  }, 10_000);
});

test('a process that was away so long that the others forgot it says again who is connected to it, until that is known', async () => {
  const node = await one.enrol('web-5');
  const speaking = await connectTo(one, node);
  await connected(other, node, true);
  const { storage } = one.running;
  const { server_id } = await storage.read
    .selectFrom('agent_connections')
    .select('server_id')
    .where('agent_id', '=', node.uid)
    .executeTakeFirstOrThrow();
  await storage.write('test', async (tx) => {
    await tx.deleteFrom('channel_servers').where('id', '=', server_id).execute();
    await tx.deleteFrom('agent_connections').where('server_id', '=', server_id).execute();
    await sql`alter table agent_connections add constraint away check (agent_id <> ${sql.lit(node.uid)})`.execute(tx);
  });
  // Turns of its upkeep: the first has ended, in vain, when the second begins.
  const turns = new Set<number>();
  await vi.waitFor(async () => {
    const row = await storage.read
      .selectFrom('channel_servers')
      .select('seen_at')
      .where('id', '=', server_id)
      .executeTakeFirst();
    if (row) turns.add(row.seen_at);
    expect(turns.size).toBe(2);
  }, 20_000);
  expect((await status(other, node)).connected).toBe(false);
  await storage.write('test', (tx) => sql`alter table agent_connections drop constraint away`.execute(tx));
  await connected(other, node, true);
  await speaking.hangUp();
});
