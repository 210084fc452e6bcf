import { ChannelName } from '@aegis/protocol/channel/messages';
import { AegisError } from '@aegis/protocol/errors';
import { isBuiltIn, MAX_NODE_CHANNELS, MAX_REPLY_BYTES, type MessageReply } from '@aegis/protocol/messages/message';
import * as z from 'zod/mini';
import { HOOK_PATH, HookNotStarted, runHookProcess } from '../platform/hook-process.ts';

/** The program that takes a channel's messages: the message on standard input, its reply on standard output. */

const Text = z.string().check(z.minLength(1), z.maxLength(4096), z.regex(/^[^\0]*$/));
const whole = (least: number, most: number) => z.int().check(z.minimum(least), z.maximum(most));

export const MessageHook = z.strictObject({
  argv: z.array(z.string().check(z.maxLength(4096), z.regex(/^[^\0]*$/))).check(
    z.minLength(1),
    z.maxLength(64),
    z.refine((argv) => argv[0]?.startsWith('/') === true, 'its program by an absolute path'),
  ),
  user: z.optional(Text),
  timeout_sec: z._default(whole(1, 300), 60),
  max_output_bytes: z._default(whole(0, MAX_REPLY_BYTES), 65_536),
});
export type MessageHook = z.infer<typeof MessageHook>;

const OwnChannel = ChannelName.check(
  z.refine((name) => !isBuiltIn(name), 'a channel of your own: this one is built in'),
);
/** By channel. */
export const MessageHooks = z
  .record(OwnChannel, MessageHook)
  .check(z.refine((hooks) => Object.keys(hooks).length <= MAX_NODE_CHANNELS, `at most ${MAX_NODE_CHANNELS} channels`));
export type MessageHooks = z.infer<typeof MessageHooks>;

export interface HookMessage {
  id: string;
  channel: string;
  type: string;
  /** JSON text. */
  text: string;
}

const STDERR_CHARS = 500;

/** What the hook replies, within its bounds.
 *  @throws AegisError messages.hook_failed; the signal's reason when that ended it */
export const runMessageHook = async (
  hook: MessageHook,
  message: HookMessage,
  { notes, signal, nodeName }: { notes: string; signal: AbortSignal; nodeName: string },
): Promise<MessageReply> => {
  const taken: Buffer[] = [];
  let bytes = 0;
  let truncated = false;
  let said = '';
  const decoder = new TextDecoder();
  const failed = (why: string): AegisError =>
    new AegisError('messages.hook_failed', `${why} Run it by hand on the node to see why.`);
  try {
    const {
      exit,
      signal: by,
      timedOut,
    } = await runHookProcess(hook, {
      env: {
        PATH: HOOK_PATH,
        LANG: 'C.UTF-8',
        AEGIS_NODE: nodeName,
        AEGIS_CHANNEL: message.channel,
        AEGIS_MESSAGE_ID: message.id,
        AEGIS_MESSAGE_TYPE: message.type,
      },
      stdin: message.text,
      onStdout: (chunk) => {
        const room = hook.max_output_bytes - bytes;
        if (chunk.length > room) truncated = true; // and what it writes on is read, so that it does not stand still
        if (room <= 0) return;
        taken.push(Buffer.from(chunk.subarray(0, room)));
        bytes += Math.min(room, chunk.length);
      },
      onStderr: (chunk) => {
        said = (said + decoder.decode(chunk, { stream: true })).slice(-STDERR_CHARS);
      },
      signal,
      notes,
    });
    signal.throwIfAborted();
    if (exit === 0 && !timedOut) return replyOf(Buffer.concat(taken), truncated);
    const how = timedOut
      ? `was stopped after ${hook.timeout_sec} s`
      : exit === null
        ? `was ended by ${by}`
        : `exited with ${exit}`;
    const last = said.trim().split('\n').at(-1) ?? '';
    throw failed(`The hook of '${message.channel}' ${how}${last === '' ? '.' : `: ${last}.`}`);
  } catch (error) {
    if (error instanceof HookNotStarted) throw failed(error.message);
    throw error;
  }
};

const replyOf = (bytes: Buffer, truncated: boolean): MessageReply => {
  const more = truncated ? { truncated: true as const } : {};
  // Cut in the middle of a character it is still text: that much of it is left out.
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  try {
    const reply = text.decode(bytes, { stream: truncated });
    // Control characters take six each in JSON: a message of the channel would have no room for many.
    if (JSON.stringify(reply).length <= 2 * bytes.length + 2) return { reply, ...more };
  } catch {
    // not text
  }
  return { reply: bytes.toString('base64'), encoding: 'base64', ...more };
};
