import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Surroundings } from '../surroundings.ts';
import { plainText, truncated } from '../ui/plain-text.ts';
import { statusRow, statusTable } from './status-rows.ts';

/** `aegis artifacts status --watch`: on a terminal one screen that is drawn anew, on a pipe a line for each change. Until interrupted. */

const EVERY_MS = 1000;
const GIVE_UP_AFTER_MS = 600_000;

export interface WatchOptions {
  json: boolean;
  around: Surroundings;
  signal: AbortSignal;
  ask(): Promise<NodeArtifact[]>;
  say(text: string): Promise<void>;
}

export const watchStatus = async (options: WatchOptions): Promise<void> => {
  const { around, signal } = options;
  const onScreen = around.output.outIsTerminal && !options.json && around.env.TERM !== 'dumb';
  const show = onScreen ? screen(around) : changes(options);
  let lastContact = around.now();
  let lost = false;
  try {
    while (!signal.aborted) {
      try {
        const items = await options.ask();
        lastContact = around.now();
        if (lost && !onScreen) await options.say('the server is back.');
        lost = false;
        await show.items(items);
      } catch (error) {
        const away = error instanceof AegisError && ['cli.unreachable', 'http.unavailable'].includes(error.code);
        if (!away || around.now() - lastContact > GIVE_UP_AFTER_MS) throw error;
        if (!lost && !onScreen) await options.say('lost the server; trying to reach it again.');
        lost = true;
        await show.lost();
      }
      await around.pause(EVERY_MS, signal);
    }
  } finally {
    await show.close();
  }
};

interface Show {
  items(items: readonly NodeArtifact[]): Promise<void>;
  lost(): Promise<void>;
  close(): Promise<void>;
}

const changes = ({ json, around: { output } }: WatchOptions): Show => {
  const last = new Map<string, { text: string; item: NodeArtifact }>();
  const say = (item: NodeArtifact): Promise<void> =>
    output.out(
      json
        ? `${JSON.stringify({ type: 'status', ...item })}\n`
        : `${statusRow(item).map(plainText).join('  ').trimEnd()}\n`,
    );
  return {
    items: async (items) => {
      const seen = new Set<string>();
      for (const item of items) {
        const key = `${item.node_uid} ${item.name}`;
        seen.add(key);
        // When it was said is no change; what is said is.
        const text = json
          ? JSON.stringify({ ...item, reported_at: null, report: item.report && { ...item.report, at: '' } })
          : statusRow(item).join('\n');
        if (last.get(key)?.text === text) continue;
        last.set(key, { text, item });
        await say(item);
      }
      for (const [key, { item }] of last) {
        if (seen.has(key)) continue;
        last.delete(key);
        const { name, node, node_uid } = item;
        await output.out(
          json
            ? `${JSON.stringify({ type: 'gone', name, node, node_uid })}\n`
            : `${plainText(name)}  ${plainText(node)}  gone\n`,
        );
      }
    },
    lost: async () => undefined,
    close: async () => undefined,
  };
};

const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';

const screen = ({ output, now }: Surroundings): Show => {
  let entered = false;
  let items: readonly NodeArtifact[] = [];
  let lost = false;
  const draw = async (): Promise<void> => {
    const { columns = 80, rows = 24 } = process.stdout;
    const lines = statusTable(items, columns).trimEnd().split('\n');
    const room = Math.max(1, rows - 3);
    const hidden = lines.length - room;
    const shown = hidden > 0 ? [...lines.slice(0, room - 1), `… and ${hidden + 1} more`] : lines;
    const time = new Date(now()).toISOString().slice(11, 19);
    const foot = lost ? 'lost the server; trying to reach it again' : `${time} UTC`;
    const text = [...shown, '', truncated(`${foot}  (Ctrl-C ends this)`, columns)].join('\x1b[K\n');
    await output.out(`${entered ? '' : ENTER}\x1b[H${text}\x1b[J`);
    entered = true;
  };
  const onResize = () => void draw();
  process.stdout.on('resize', onResize);
  return {
    items: async (all) => {
      items = all;
      lost = false;
      await draw();
    },
    lost: async () => {
      lost = true;
      await draw();
    },
    close: async () => {
      process.stdout.off('resize', onResize);
      if (entered) await output.out(LEAVE);
    },
  };
};
