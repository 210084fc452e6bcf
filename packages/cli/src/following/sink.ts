/** following: what happens to a command's output once it arrives: onto our own stdout and stderr, prefixed by node, as JSON, or into
 *  the live view; and which exit status tells of it. Called by `submit` and `logs`.
 *  Invariant: on a pipe every byte of the one node's output leaves as it came. Must not talk to the server: the session does. */
import type { Command, Execution } from '@aegis/protocol/commands/submission';
import type { FollowEvent, OutputChunk } from '../api/follow.ts';

export type Gap = Extract<FollowEvent, { type: 'gap' }>;

export interface Outcome {
  command: Command;
  /** Each node's last attempt, by name. */
  executions: Execution[];
}

export interface Sink {
  chunk(chunk: OutputChunk): Promise<void>;
  gap(gap: Gap): Promise<void>;
  state(execution: Execution): Promise<void>;
  /** Everything arrived. */
  end(outcome: Outcome): Promise<void>;
  /** Gives back what it took (the terminal); also after a failure. Safe to call again. */
  close(): Promise<void>;
}

export const gapText = ({ node, stream, gap, offset, reason }: Gap): string =>
  `${gap} bytes of ${node}'s ${stream} are missing from byte ${offset} on (${reason}).`;
