import { AegisError } from '@aegis/protocol/errors';
import type { Surroundings } from '../surroundings.ts';
import { truncated } from '../ui/plain-text.ts';

/** A list that is looked at again and again (`--watch`): on a terminal one screen that is drawn anew, on a pipe a line for each change. Until
 *  interrupted. */

const EVERY_MS = 1000;
const GIVE_UP_AFTER_MS = 600_000;

export interface Watched<T> {
  json: boolean;
  around: Surroundings;
  signal: AbortSignal;
  ask(): Promise<T[]>;
  say(text: string): Promise<void>;
  /** What stays the same while an item changes. */
  key(item: T): string;
  /** What counts as a change: when it was said does not, what is said does. */
  state(item: T): string;
  /** Safe for a terminal, with line feeds. */
  table(items: readonly T[], columns: number): string;
  /** One line for a change, or for an item that is gone; without its line feed. */
  line(item: T, gone: boolean): string;
}

export const watch = async <T>(options: Watched<T>): Promise<void> => {
  const { around, signal } = options;
  const onScreen = around.output.outIsTerminal && !options.json && around.env.TERM !== 'dumb';
  const show = onScreen ? screen(options) : changes(options);
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

interface Show<T> {
  items(items: readonly T[]): Promise<void>;
  lost(): Promise<void>;
  close(): Promise<void>;
}

const changes = <T>({ around: { output }, key, state, line }: Watched<T>): Show<T> => {
  const last = new Map<string, { state: string; item: T }>();
  return {
    items: async (items) => {
      const seen = new Set<string>();
      for (const item of items) {
        seen.add(key(item));
        const now = state(item);
        if (last.get(key(item))?.state === now) continue;
        last.set(key(item), { state: now, item });
        await output.out(`${line(item, false)}\n`);
      }
      for (const [name, { item }] of last) {
        if (seen.has(name)) continue;
        last.delete(name);
        await output.out(`${line(item, true)}\n`);
      }
    },
    lost: async () => undefined,
    close: async () => undefined,
  };
};

const ENTER = '\x1b[?1049h\x1b[?25l';
const LEAVE = '\x1b[?25h\x1b[?1049l';

const screen = <T>({ around: { output, now }, table }: Watched<T>): Show<T> => {
  let entered = false;
  let items: readonly T[] = [];
  let lost = false;
  const draw = async (): Promise<void> => {
    const columns = process.stdout.columns || 80;
    const rows = process.stdout.rows || 24;
    const lines = table(items, columns).trimEnd().split('\n');
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
