import { sendMessage, showMessage } from '@aegis/protocol/messages/endpoints';
import { answerMessage, pollMessages } from '@aegis/protocol/messages/node-endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectTo } from './messages-support.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** A node that polls and cannot take a message now is not given it again at once. */

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.close());

const send = async (node: EnrolledNode, channel: string): Promise<string> => {
  const body = { channel, message: {} };
  return (await server.as('operator').call(sendMessage, { params: { id: node.uid }, body })).message_id;
};
const polled = async (node: EnrolledNode, wait = 0): Promise<string[]> =>
  (await node.call(pollMessages, { query: { wait } })).messages.map((one) => one.message_id);
const postpone = async (node: EnrolledNode, id: string, more: object = {}): Promise<void> => {
  const error = { code: 'http.unavailable', message: 'draining', ...more };
  expect(await node.call(answerMessage, { body: { message_id: id, error } })).toEqual({
    message_id: id,
    state: 'queued',
  });
};

test('its channel rests for as long as the node asks, at no other node, on no other channel, and not over a connection', async () => {
  const [node, other] = [await server.enrol('web-1'), await server.enrol('web-2')];
  const [first, elsewhere] = [await send(node, 'x'), await send(other, 'x')];
  expect(await polled(node)).toEqual([first]);
  await postpone(node, first, { retry_after_ms: 60_000 });
  expect(await polled(node)).toEqual([]);
  const aside = await send(node, 'y');
  expect([await polled(node), await polled(other)]).toEqual([[aside], [elsewhere]]);
  const speaking = await connectTo(server, node, { channels: ['x'] });
  const given = await speaking.given();
  expect(given.message_id).toBe(first);
  await speaking.hangUp();
});

test('a poll that is held is given it when the pause is over, also when the node asked for none', async () => {
  const node = await server.enrol('web-3');
  const id = await send(node, 'x');
  expect(await polled(node)).toEqual([id]);
  await postpone(node, id, { retry_after_ms: 0 });
  expect(await polled(node, 30)).toEqual([id]);
  await node.call(answerMessage, { body: { message_id: id, result: { reply: 'now' } } });
  const view = await server.as('viewer').call(showMessage, { params: { id: node.uid, message_id: id } });
  expect([view.state, view.retries]).toEqual(['delivered', 0]);
});
