import type { BodyOf, Endpoint } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import { answerMessage, pollMessages } from '@aegis/protocol/messages/node-endpoints';
import { expect, test, vi } from 'vitest';
import { pause } from '../platform/clock.ts';
import { Unreachable } from '../platform/http/client.ts';
import { silentLog } from '../platform/log.ts';
import { messagePollLoop } from './poll-loop.ts';

/** Polls at a server that gives, at each, a message on every channel that is not excepted. */

const given = (channel: string, n: number) => ({
  channel,
  message_id: `${channel}-${n}`,
  message_type: 'request' as const,
  message: {},
  expires_at: new Date(8.64e12).toISOString(),
});

test('a channel whose message the node put off rests, while others go on, and then it comes again', async () => {
  const stopping = new AbortController();
  const taken: string[] = [];
  const answers: BodyOf<typeof answerMessage>[] = [];
  let many = 0;
  /** Answers no more from then on. */
  const enough = Promise.withResolvers<void>();
  const call = async (endpoint: Endpoint, { query = {}, body, signal }: Record<string, unknown>): Promise<unknown> => {
    if (endpoint === answerMessage) {
      const answer = body as BodyOf<typeof answerMessage>;
      answers.push(answer);
      return { message_id: answer.message_id, state: answer.error ? 'queued' : 'delivered' };
    }
    expect(endpoint).toBe(pollMessages);
    const except = `${(query as { except?: string }).except ?? ''}`.split(',');
    if (many >= 50) enough.resolve();
    const channels = many >= 50 ? ['x'] : ['x', 'y'];
    const messages = channels.filter((one) => !except.includes(one)).map((one) => given(one, one === 'x' ? 0 : many++));
    if (messages.length === 0) await pause(60_000, signal as AbortSignal);
    if ((signal as AbortSignal).aborted) throw new Unreachable('aborted');
    return { messages };
  };
  const loop = messagePollLoop({
    client: { call: call as never },
    inbox: {
      take: async (channel, body) => {
        taken.push(channel);
        if (channel === 'x' && taken.filter((one) => one === 'x').length < 3)
          throw new AegisError('http.unavailable', 'draining', { retryAfterSec: 0 });
        if (channel === 'x') stopping.abort();
        return { reply: `${(body as { message_id: string }).message_id}` };
      },
    },
    channel: { up: () => false, onChange: () => undefined },
    graceMs: 0,
    waitSec: 1,
    random: () => 0,
    log: silentLog(),
    signal: stopping.signal,
  });
  await Promise.race([enough.promise, loop]);
  expect(taken.filter((one) => one === 'x')).toEqual(['x']);
  await vi.waitFor(() => expect(taken.filter((one) => one === 'x')).toHaveLength(3), 20_000);
  await loop;
  expect(answers.filter(({ error }) => error)).toEqual(
    Array(2).fill({
      message_id: 'x-0',
      error: { code: 'http.unavailable', message: 'draining', retry_after_ms: 0 },
    }),
  );
});
