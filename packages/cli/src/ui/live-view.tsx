import { Box, render, Text, useInput, useWindowSize } from 'ink';
import { useEffect, useSyncExternalStore } from 'react';
import { hasEnded } from '../following/exit-status.ts';
import { countStates, countsText, type NodeRow, visibleRows } from '../following/node-rows.ts';
import { truncated } from './plain-text.ts';
import { duration, took } from './time.ts';

/** The live view of a command on several nodes. Loaded only on a terminal, from its own bundle: ink and React cost 100 ms to load. */

export interface ViewState {
  title: string;
  rows: readonly NodeRow[];
  startedAt: number;
  asking: boolean;
}

const MARKS: Readonly<Record<NodeRow['state'], readonly [mark: string, colour: string]>> = {
  queued: ['·', 'gray'],
  delivered: ['·', 'cyan'],
  running: ['▸', 'cyan'],
  succeeded: ['✔', 'green'],
  failed: ['✖', 'red'],
  timed_out: ['✖', 'red'],
  cancelled: ['✖', 'yellow'],
  lost: ['?', 'red'],
  refused: ['✖', 'red'],
  expired: ['✖', 'yellow'],
};

const STATE_WIDTH = 12;
const TIME_WIDTH = 6;
/** Lines around the rows: title, head, the hidden ones' counts, the hint, and one free so that the terminal never scrolls. */
const OTHER_LINES = 5;

export interface FrameProps extends ViewState {
  now: number;
  columns: number;
  lines: number;
}

/** One frame; pure, so that tests look at it without a terminal. */
export const Frame = ({ title, rows, startedAt, asking, now, columns, lines }: FrameProps) => {
  const { shown, hidden } = visibleRows(rows, Math.max(1, lines - OTHER_LINES));
  const ended = rows.filter(hasEnded).length;
  const right = `${ended}/${rows.length} ended  ${duration(now - startedAt)}`;
  const nodeWidth = Math.min(
    Math.max(4, ...shown.map(({ node }) => node.length)),
    Math.max(8, Math.floor(columns / 4)),
  );
  const lineWidth = Math.max(0, columns - nodeWidth - STATE_WIDTH - TIME_WIDTH - 5);
  return (
    <Box flexDirection="column" width={columns}>
      <Box justifyContent="space-between">
        <Text bold wrap="truncate">
          {truncated(title, Math.max(0, columns - right.length - 2))}
        </Text>
        <Text>{right}</Text>
      </Box>
      <Text dimColor wrap="truncate">
        {`${'NODE'.padEnd(nodeWidth)} ${'  STATE'.padEnd(STATE_WIDTH + 2)} ${'TIME'.padStart(TIME_WIDTH)} LAST LINE`}
      </Text>
      {shown.map((row) => {
        const [mark, colour] = MARKS[row.state];
        const state = row.exit !== '' && row.exit !== '0' ? `${row.state} ${row.exit}` : row.state;
        return (
          <Text key={row.node} wrap="truncate">
            {`${truncated(row.node, nodeWidth).padEnd(nodeWidth)} `}
            <Text color={colour}>{`${mark} ${truncated(state, STATE_WIDTH).padEnd(STATE_WIDTH)}`}</Text>
            {` ${took(row.startedAt, row.finishedAt, now).padStart(TIME_WIDTH)} `}
            <Text dimColor>{truncated(row.lastLine, lineWidth)}</Text>
          </Text>
        );
      })}
      {hidden.size > 0 && (
        <Text dimColor wrap="truncate">
          {`… and ${rows.length - shown.length} more: ${countsText(hidden)}`}
        </Text>
      )}
      <Text wrap="truncate" {...(asking ? { color: 'yellow' } : { dimColor: true })}>
        {asking ? 'c: cancel  d: detach  Enter: go on' : `${countsText(countStates(rows))}  (Ctrl-C: cancel or detach)`}
      </Text>
    </Box>
  );
};

export interface ViewStore {
  subscribe(listener: () => void): () => void;
  current(): ViewState;
  now(): number;
}

interface Keys {
  strike(): void;
  answer(key: string): void;
}

const TICK_MS = 100;

const LiveView = ({
  store,
  keys,
  keyboard,
  tick,
}: {
  store: ViewStore;
  keys: Keys;
  keyboard: boolean;
  tick(): void;
}) => {
  const state = useSyncExternalStore(store.subscribe, store.current);
  const { columns, rows: lines } = useWindowSize();
  useEffect(() => {
    const timer = setInterval(tick, TICK_MS);
    return () => clearInterval(timer);
  }, [tick]);
  useInput(
    (input, key) => {
      if (key.ctrl && input === 'c') keys.strike();
      else keys.answer(key.return ? 'enter' : input.toLowerCase());
    },
    { isActive: keyboard },
  );
  return <Frame {...state} now={store.now()} columns={columns} lines={lines} />;
};

export interface Shown {
  /** Takes the view off the terminal and gives the keyboard back. */
  close(): Promise<void>;
}

export const showLiveView = (store: ViewStore, keys: Keys, tick: () => void): Shown => {
  const keyboard = process.stdin.isTTY === true;
  // ink draws the old frame once more before React hears of the new width; in a narrower terminal its lines wrap and ink loses count of
  // them. So once it has, the screen is wiped, and the next tick's frame stands alone.
  let wipe: NodeJS.Timeout | undefined;
  const onResize = () => {
    clearTimeout(wipe);
    wipe = setTimeout(() => process.stdout.write('\x1b[2J\x1b[H'), TICK_MS / 2);
  };
  process.stdout.on('resize', onResize);
  const view = render(<LiveView store={store} keys={keys} keyboard={keyboard} tick={tick} />, {
    exitOnCtrlC: false,
    patchConsole: false,
    interactive: true,
    alternateScreen: true,
    maxFps: 15,
  });
  return {
    close: async () => {
      process.stdout.off('resize', onResize);
      clearTimeout(wipe);
      view.unmount();
      await view.waitUntilExit();
    },
  };
};
