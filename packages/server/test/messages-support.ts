import { randomBytes } from 'node:crypto';
import { makeEphemeral, openAnswer, signRequest } from '@aegis/protocol/channel/handshake';
import type { AuthenticationResponse } from '@aegis/protocol/channel/messages';
import { type Opened, opener, sealer } from '@aegis/protocol/channel/sealing';
import type { GivenMessage } from '@aegis/protocol/messages/message';
import { headersOf, open, type RawNode } from './channel-support.ts';
import type { EnrolledNode } from './start-test-server.ts';

/** A node at a whole server, message by message: so that what it answers can be anything. */

export interface Given extends GivenMessage {
  /** Of the request that brought it. */
  id: string;
  channel: string;
}
export interface SpeakingNode extends RawNode {
  /** The next request; answers and signs of life are passed over. @throws Error with the close code when there is none any more */
  given(): Promise<Given>;
  /** Says it, whatever it is. */
  say(channel: string, body: unknown, type?: 'event' | 'request' | 'response'): void;
  reply(to: Pick<Given, 'id' | 'channel'>, result: unknown): void;
  refuse(to: Pick<Given, 'id' | 'channel'>, code: string, more?: object): void;
  hangUp(): Promise<void>;
}

export const connectTo = async (
  server: { url: string; running: { fleet: string } },
  node: EnrolledNode,
  hello: object = {},
): Promise<SpeakingNode> => {
  const raw = await open(`${server.url.replace('http', 'ws')}/ws/agent`, headersOf(node));
  const ephemeral = makeEphemeral();
  const request = signRequest(server.running.fleet, node.keys, {
    agent_id: node.name,
    public_key: node.keys.publicRaw.toString('base64'),
    timestamp: Math.floor(Date.now() / 1000),
    nonce: randomBytes(32).toString('base64'),
    versions: [1],
    ephemeral_key: ephemeral.publicRaw.toString('base64'),
  });
  raw.ws.send(JSON.stringify(request));
  const answer = JSON.parse(await raw.next()) as AuthenticationResponse;
  if (!answer.success) throw new Error(answer.message);
  const keys = openAnswer({ fleet: server.running.fleet, isServerKey: () => true, ephemeral }, request, answer);
  const { seal } = sealer({
    key: keys.nodeToServer,
    direction: 'node to server',
    rotation: { messages: 1e6, ms: 1e9 },
    clock: { now: () => Date.now(), monotonic: () => performance.now() },
    signing: null,
  });
  const opening = opener({ key: keys.serverToNode, direction: 'server to node', verifying: null });
  let ids = 0;
  let taken = new Map<string, number>();
  const say: SpeakingNode['say'] = (channel, body, type = 'event') =>
    raw.ws.send(seal({ id: `n-${ids++}`, type, channel }, JSON.stringify(body)));
  say('hello', { version: '0.1.0', ...hello });
  const credit = ({ channel, payload }: Opened): void => {
    taken = new Map(taken).set(channel, (taken.get(channel) ?? 0) + payload.length + 256);
    say('heartbeat', { credit: { [channel]: taken.get(channel) } });
  };
  return {
    ...raw,
    say,
    given: async () => {
      for (;;) {
        const message = opening.open(await raw.next());
        if (message.channel === 'heartbeat') continue;
        credit(message);
        if (message.type !== 'request') continue;
        const body = JSON.parse(message.payload.toString('utf8')) as GivenMessage;
        return { ...body, id: message.id, channel: message.channel };
      }
    },
    reply: ({ id, channel }, result) => say(channel, { in_reply_to: id, result }, 'response'),
    refuse: ({ id, channel }, code, more = {}) =>
      say(channel, { in_reply_to: id, error: { code, message: `it says ${code}`, ...more } }, 'response'),
    hangUp: async () => {
      raw.ws.terminate();
      await raw.closed;
    },
  };
};
