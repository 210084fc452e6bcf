import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';

/** How a backup is found and opened on this machine, for all commands that look into one. */

const many = { multiple: true, multipleNonGreedy: true } as const;
const SOURCE = 'THE BACKUP';

export const sourceFlags = {
  identity: Flags.string({
    char: 'i',
    ...many,
    helpValue: 'FILE',
    summary: 'age identity that opens it (-: standard input); repeatable',
    helpGroup: SOURCE,
  }),
  from: Flags.string({
    helpValue: 'DIR',
    summary: 'Take it from this folder, without any server, in place of RUN',
    helpGroup: SOURCE,
  }),
  'node-key': Flags.string({
    ...many,
    helpValue: 'FILE|KEYID',
    summary: "Believe this node's key alone, in place of those of 'aegis nodes trust'",
    helpGroup: SOURCE,
  }),
};

export interface SourceFlags {
  identity?: string[] | undefined;
  from?: string | undefined;
  'node-key'?: string[] | undefined;
}

/** RUN and what follows it; with --from there is no RUN. @throws AegisError cli.usage */
export const runAndRest = (
  argv: readonly unknown[],
  { from }: SourceFlags,
  usage: string,
  most: number,
): { run: string | null; rest: string[] } => {
  const words = argv.map(String);
  const run = from === undefined ? words.shift() : null;
  if (run === undefined || words.length > most)
    throw new AegisError(
      'cli.usage',
      `Write aegis backups ${usage}; RUN is an id, its beginning, latest:CONFIG or latest:CONFIG@NODE.`,
    );
  return { run, rest: words };
};
