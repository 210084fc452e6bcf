import { readFileSync } from 'node:fs';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import type { MessageView, SendAnswer } from '@aegis/protocol/messages/message';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { ago, secondsOf } from '../ui/time.ts';

const nodeArg = Args.string({ required: true, ignoreStdin: true, description: 'Name or uid of the node' });
const channelArg = Args.string({
  required: true,
  ignoreStdin: true,
  description: 'A channel that nodes have hooks for',
});

const messageFlags = {
  data: Flags.string({ helpValue: 'JSON', summary: 'The message: a JSON object (-: standard input; default: {})' }),
  type: Flags.option({
    options: ['request', 'response', 'event'] as const,
    summary: 'What the hook is told that it is (default: request)',
  })(),
  ttl: Flags.string({ helpValue: 'TIME', summary: "Until when a node may take it (default: the server's, 1h)" }),
};

const seconds = (flag: string, text: string): number => {
  const found = secondsOf(text);
  if (found === null || !Number.isInteger(found) || found < 1)
    throw new AegisError('cli.usage', `--${flag} ${text}: not a time; write 90, 15m or 1h.`);
  return found;
};
const messageOf = (flags: {
  data: string | undefined;
  type: 'request' | 'response' | 'event' | undefined;
  ttl: string | undefined;
}) => ({
  message: objectOf(flags.data),
  ...(flags.type === undefined ? {} : { message_type: flags.type }),
  ...(flags.ttl === undefined ? {} : { ttl_sec: seconds('ttl', flags.ttl) }),
});
const objectOf = (data = '{}'): Record<string, unknown> => {
  const text = data === '-' ? readFileSync(0, 'utf8') : data;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // refused as what is no object either
  }
  throw new AegisError('cli.usage', `--data takes a JSON object, such as '{"verbose": true}'.`);
};

export class ChannelStatus extends ServerCommand {
  static override description =
    "Shows whether a node's channel is up, at whichever server process, and on which channels something can be said to it.";
  static override examples = [
    { description: 'One node', command: 'aegis channel status web-1' },
    { description: 'Whether it is connected', command: 'aegis channel status web-1 --json | jq .connected' },
  ];
  static override args = { node: nodeArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ChannelStatus);
    await this.withApi(flags, async (api) => {
      const status = await api.call(routes.agentStatus, { params: { id: args.node } });
      if (flags.json) return this.printJson(status);
      return this.print(
        facts([
          ['node', status.agent_id],
          ['connected', status.connected ? 'yes' : 'no'],
          ['last seen', status.last_seen && `${status.last_seen} (${ago(status.last_seen, this.around.now())})`],
          ['channels', status.channels.join(', ') || null],
          ['session expires', status.session_expires],
        ]),
      );
    });
  }
}

/** Of one request; the server's connection to us would be taken for dead in a longer silence. */
const WAIT_AT_ONCE_SEC = 45;
const ASK_AGAIN_MS = 1000;

export class ChannelSend extends ServerCommand {
  static override description =
    "Says something to a node, which gives it to the hook that its own configuration names for the channel, and prints what the hook replies. A node that is not connected gets it when it comes back, until it expires; then, and where nothing is to be waited for, the message's id is printed.";
  static override examples = [
    { description: 'Ask a hook', command: 'aegis channel send web-1 deploy.status' },
    {
      description: 'With something to go by',
      command: `aegis channel send web-1 deploy.status --data '{"app": "shop"}' --wait 5m`,
    },
    { description: 'Without waiting', command: 'aegis channel send web-1 cache.flush --detach --ttl 10m' },
    { description: 'From a program', command: 'jq -n \'{app: "shop"}\' | aegis channel send web-1 deploy --data -' },
  ];
  static override args = { node: nodeArg, channel: channelArg };
  static override flags = {
    ...messageFlags,
    wait: Flags.string({ helpValue: 'TIME', default: '60s', summary: 'How long to wait for the reply' }),
    detach: Flags.boolean({ summary: 'Do not wait', exclusive: ['wait'] }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ChannelSend);
    const body = { channel: args.channel, ...messageOf(flags) };
    const waitSec = flags.detach ? 0 : seconds('wait', flags.wait);
    await this.withApi(flags, async (api) => {
      const until = this.around.now() + waitSec * 1000;
      const sent = await api.call(routes.sendMessage, {
        params: { id: args.node },
        body: { ...body, ...(waitSec === 0 ? {} : { timeout_sec: Math.min(waitSec, WAIT_AT_ONCE_SEC) }) },
      });
      if (flags.detach) return flags.json ? this.printJson(sent) : this.print(`${sent.message_id}\n`);
      const ended = isOpen(sent) ? await this.#ended(api, args.node, sent.message_id, until) : sent;
      if (flags.json) return this.printJson(ended);
      if (isOpen(ended)) {
        await this.note(
          `the node has not replied: the message is ${ended.state}. 'aegis channel show ${args.node} ${ended.message_id}' tells more.`,
        );
        return this.print(`${ended.message_id}\n`);
      }
      return this.#reply(ended);
    });
  }

  async #ended(api: Api, node: string, message_id: string, until: number): Promise<MessageView> {
    for (;;) {
      const view = await api.call(routes.showMessage, { params: { id: node, message_id } });
      if (!isOpen(view) || this.around.now() >= until) return view;
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
    }
  }

  async #reply({ reply, encoding, truncated, error }: Ending): Promise<undefined> {
    if (error)
      throw new AegisError(isErrorCode(error.code) ? error.code : 'messages.hook_failed', plainText(error.message));
    await this.around.output.out(encoding === 'base64' ? Buffer.from(reply ?? '', 'base64') : (reply ?? ''));
    if (truncated) await this.note('the reply is cut off: the hook wrote more than the node keeps of it.');
  }
}
type Ending = Pick<SendAnswer, 'reply' | 'encoding' | 'truncated' | 'error'>;
const isOpen = ({ state }: { state?: SendAnswer['state'] }): boolean => state === 'queued' || state === 'sent';

export class ChannelBroadcast extends ServerCommand {
  static override description =
    'Says something to every node whose channel is up at this moment, and lists who was sent it and who was not. Nothing is kept for the others.';
  static override examples = [
    { description: 'Tell every node', command: `aegis channel broadcast cache.flush --data '{"zone": "eu"}'` },
    { description: 'Whom it did not reach', command: 'aegis channel broadcast cache.flush --json | jq .failed' },
  ];
  static override args = { channel: channelArg };
  static override flags = { ...messageFlags, ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ChannelBroadcast);
    const body = { channel: args.channel, ...messageOf(flags) };
    await this.withApi(flags, async (api) => {
      const answer = await api.call(routes.broadcastMessage, { body });
      if (flags.json) return this.printJson(answer);
      return this.print(
        facts([
          ['message', answer.message_id],
          ['sent to', answer.sent_to.join(', ') || 'nobody'],
          ['not connected', answer.failed.join(', ') || null],
        ]),
      );
    });
  }
}

export class ChannelShow extends ServerCommand {
  static override description = 'Shows what became of a message to a node, and what the node replied.';
  static override examples = [
    {
      description: 'A message that was sent before',
      command: 'aegis channel show web-1 01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a',
    },
    {
      description: 'Its state alone',
      command: 'aegis channel show web-1 01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a --json | jq -r .state',
    },
  ];
  static override args = {
    node: nodeArg,
    message: Args.string({ required: true, ignoreStdin: true, description: 'Id of the message' }),
  };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ChannelShow);
    await this.withApi(flags, async (api) => {
      const view = await api.call(routes.showMessage, { params: { id: args.node, message_id: args.message } });
      if (flags.json) return this.printJson(view);
      const shown = view.encoding === 'base64' ? `${view.reply} (base64)` : view.reply;
      return this.print(
        facts([
          ['message', view.message_id],
          ['node', view.agent_id],
          ['channel', view.channel],
          ['type', view.message_type],
          ['state', view.state],
          ['given again', view.retries > 0 ? `${view.retries} times` : null],
          ['created', view.created_at],
          ['expires', view.expires_at],
          ['ended', view.ended_at],
          ['reply', shown],
          ['error', view.error && `${view.error.code}: ${view.error.message}`],
        ]),
      );
    });
  }
}
