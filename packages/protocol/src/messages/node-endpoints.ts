import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { MAX_NODE_CHANNELS, MessageState, PolledMessage } from './message.ts';

const tag = 'messages';

/** Channels, separated by commas. */
const Channels = z
  .string()
  .check(z.maxLength(MAX_NODE_CHANNELS * 65), z.regex(/^[a-z0-9._,-]*$/, 'channels, separated by commas'));

export const pollMessages = endpoint({
  id: 'pollMessages',
  door: 'agent-svc',
  method: 'GET',
  path: '/v1/messages',
  caller: 'node',
  tag,
  summary: 'Wait for messages while there is no channel: the oldest of each channel, again until it is answered',
  query: z.object({
    wait: z._default(z.coerce.number().check(z.int(), z.minimum(0), z.maximum(60)), 0),
    /** Those whose message is being handled: nothing of them comes. */
    except: z.optional(Channels),
  }),
  response: z.object({
    messages: z.array(PolledMessage),
    /** The server is stopping: ask again after so long. */
    retry_after_ms: z.optional(z.int()),
  }),
});

export const answerMessage = endpoint({
  id: 'answerMessage',
  door: 'agent-svc',
  method: 'POST',
  path: '/v1/messages/answer',
  caller: 'node',
  tag,
  summary: 'What a node answers to a message that a poll brought; a repeat changes nothing',
  body: z.object({
    message_id: z.uuid(),
    /** A MessageReply; judged as what comes on a channel is. */
    result: z.optional(z.unknown()),
    error: z.optional(
      z.object({
        code: z.string().check(z.maxLength(64)),
        message: z.string(),
        retry_after_ms: z.optional(z.int().check(z.minimum(0))),
      }),
    ),
  }),
  response: z.object({ message_id: z.string(), state: MessageState }),
});
