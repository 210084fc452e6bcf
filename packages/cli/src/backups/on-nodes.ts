import type { SubmitAnswer } from '@aegis/protocol/commands/submission';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { cancelQuietly } from '../api/submitting.ts';
import { askOnTerminal } from '../following/ask-terminal.ts';
import { type InterruptPolicy, interrupts } from '../following/interrupts.ts';
import { followSession } from '../following/session.ts';
import type { Surroundings } from '../surroundings.ts';
import { ReaderGone } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { type NodeEnd, nodeLinesSink } from './node-lines.ts';
import { progressOf, progressView } from './progress-view.ts';

/** Follows a run or a restore that nodes were asked for, until each has said how it ended. */

const RECONNECT_FOR_MS = 600_000;

export interface Following {
  json: boolean;
  /** Whether progress is shown. */
  progress: boolean;
  policy: InterruptPolicy;
  around: Surroundings;
  say(text: string): Promise<void>;
}

export interface Followed {
  ends: readonly NodeEnd[];
  interrupted: boolean;
  /** It goes on, and nobody follows. */
  letGo: boolean;
}

export const followNodes = async (
  api: Api,
  answer: SubmitAnswer,
  id: string,
  options: Following,
): Promise<Followed> => {
  const { around, json } = options;
  const { output } = around;
  const view = options.progress && !json ? progressView(around) : null;
  const say = async (text: string): Promise<void> => {
    await view?.clear();
    await options.say(text);
  };
  const sink = nodeLinesSink(async (node, { type, fields }) => {
    if (json) {
      if (type !== 'progress' || options.progress) await output.out(`${JSON.stringify({ type, node, ...fields })}\n`);
    } else if (type === 'progress') await view?.show(node, progressOf(fields));
  }, say);
  const canAsk = process.stdin.isTTY === true && output.errIsTerminal && !json;
  const [first] = answer.targets;
  const where = answer.targets.length === 1 ? (first?.name ?? 'the node') : `${answer.targets.length} nodes`;
  const stop = interrupts({
    policy: options.policy,
    ask: canAsk ? () => askOnTerminal(output, plainText(where)) : null,
    cancel: async () => void (await api.call(routes.cancelCommand, { params: { id }, body: {} })),
    say,
  });
  try {
    if (json) await output.out(`${JSON.stringify({ type: 'submitted', ...answer })}\n`);
    else for (const line of awayLines(answer)) await say(line);
    const outcome = await followSession(api, id, sink, {
      follow: true,
      signal: stop.letGo,
      giveUpAfterMs: RECONNECT_FOR_MS,
      now: around.now,
      pause: around.pause,
      onOutage: (state) =>
        void say(state === 'lost' ? 'lost the server; trying to reach it again.' : 'the server is back.'),
    });
    return { ends: sink.ends, interrupted: stop.interrupted, letGo: outcome === null };
  } catch (error) {
    if (error instanceof ReaderGone && options.policy !== 'detach') await cancelQuietly(api, id);
    throw error;
  } finally {
    stop.stop();
    await view?.clear();
  }
};

/** Who comes later: without a word it looks as if nothing happened. */
const awayLines = ({ targets, expires_at }: SubmitAnswer): string[] => {
  const away = targets.filter(({ status }) => status === 'offline' || status === 'maintenance');
  const [first] = away;
  if (!first) return [];
  const who = away.length === 1 ? `${first.name} is ${first.status}` : `${away.length} nodes are away`;
  return [plainText(`${who}; it is asked for until ${expires_at}. 'aegis nodes list' shows who is there.`)];
};
