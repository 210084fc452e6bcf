import { openSync } from 'node:fs';
import type { Output } from '../ui/output.ts';
import type { Answer } from './interrupts.ts';

/** Asks on the terminal itself: standard input may be the command's. Anything but c or d means: keep following.
 *  A tty stream, not a file stream: a thread that is blocked in read(2) would hold up our exit. */
export const askOnTerminal = async (output: Output, where: string): Promise<Answer> => {
  await output.err(`\naegis: [c]ancel the command on ${where}, [d]etach and let it run, or Enter to keep following? `);
  const { ReadStream } = await import('node:tty');
  const terminal = new ReadStream(openSync('/dev/tty', 'r'));
  try {
    let line = '';
    for await (const piece of terminal) {
      line += String(piece);
      if (line.includes('\n')) break;
    }
    const [first] = line.trim().toLowerCase();
    return first === 'c' ? 'cancel' : first === 'd' ? 'detach' : 'keep';
  } finally {
    terminal.destroy();
  }
};
