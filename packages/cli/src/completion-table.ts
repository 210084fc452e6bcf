import type { Command } from '@oclif/core/command';
import { COMMANDS, TOPICS } from './command-table.ts';
import { loadCommand } from './oclif.ts';

/** What the shells need to know: every command with its flags, every topic with its subcommands. */

export interface CompletedFlag {
  /** With its dashes. */
  names: string[];
  summary: string;
  takesValue: boolean;
  values: readonly string[];
}
export interface CompletedCommand {
  /** `nodes list`. */
  words: string;
  summary: string;
  flags: CompletedFlag[];
  /** Choices of its argument, as `bash` of `completion`. */
  values: readonly string[];
}
export interface CompletionTable {
  commands: CompletedCommand[];
  topics: { words: string; summary: string }[];
}

export const completionTable = async (): Promise<CompletionTable> => {
  const commands = await Promise.all(
    Object.keys(COMMANDS).map(async (id) => {
      const command = await loadCommand(id);
      return {
        words: id.replaceAll(':', ' '),
        summary: command.summary ?? '',
        flags: Object.entries(allFlags(command))
          .filter(([, flag]) => !flag.hidden)
          .flatMap(flagOf),
        values: Object.values(command.args).flatMap((arg) => arg.options ?? []),
      };
    }),
  );
  const topics = Object.entries(TOPICS).map(([id, summary]) => ({ words: id.replaceAll(':', ' '), summary }));
  return { commands, topics };
};

export const allFlags = (command: Command.Class): Record<string, Command.Flag.Any> => ({
  ...command.baseFlags,
  ...command.flags,
});

const flagOf = ([name, flag]: [string, Command.Flag.Any]): CompletedFlag[] => {
  const summary = flag.summary ?? '';
  const takesValue = flag.type === 'option';
  const values = (flag.type === 'option' && flag.options) || [];
  const one = { names: [`--${name}`, ...(flag.char ? [`-${flag.char}`] : [])], summary, takesValue, values };
  return flag.type === 'boolean' && flag.allowNo ? [one, { ...one, names: [`--no-${name}`] }] : [one];
};
