import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { commandIdOf } from '../api/command-id.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { followEverything } from '../following/everything.ts';
import { jsonSink } from '../following/json-sink.ts';
import { prefixedSink } from '../following/prefixed-sink.ts';
import { rawSink } from '../following/raw-sink.ts';
import { followSession } from '../following/session.ts';
import type { Sink } from '../following/sink.ts';

export class Logs extends ServerCommand {
  static override description =
    `Writes what a command wrote: stdout to stdout, stderr to stderr, byte for byte; a stream chosen by --stream goes to stdout. Of a command on several nodes each line is prefixed with its node, unless --node chooses one. Bytes that are missing are announced on stderr, with their offset and reason.

Without COMMAND it is the latest command; with -f and without COMMAND, everything that runs now or starts later. With -f it goes on until the command has ended. The exit code tells whether the output could be read, not how the command ended.`;

  static override examples = [
    { description: 'What the latest command wrote', command: 'aegis logs' },
    { description: 'Follow a command', command: 'aegis logs -f $ID' },
    {
      description: "One node's stdout into a file, exactly",
      command: 'aegis logs $ID --node web-1 --stream stdout > out.bin',
    },
    { description: 'Everything new in the fleet', command: 'aegis logs -f' },
  ];

  static override args = {
    command: Args.string({
      description: 'Command id, or its beginning (default: the latest command)',
      ignoreStdin: true,
    }),
  };

  static override flags = {
    follow: Flags.boolean({ char: 'f', summary: 'Go on until the command has ended' }),
    node: Flags.string({ helpValue: 'NODE', summary: 'Only this node' }),
    attempt: Flags.integer({ min: 1, helpValue: 'N', summary: 'Only this attempt' }),
    stream: Flags.option({
      options: ['stdout', 'stderr', 'both'] as const,
      default: 'both' as const,
      summary: 'Which stream; one alone is written to stdout',
    })(),
    offset: Flags.integer({ min: 0, helpValue: 'BYTES', summary: 'Start at this byte of the stream' }),
    prefix: Flags.boolean({ allowNo: true, summary: "Prefix lines with 'node│' (default: with several nodes)" }),
    'reconnect-for': Flags.integer({
      default: 600,
      min: 0,
      helpValue: 'SEC',
      summary: 'Give up after this long without the server',
    }),
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(Logs);
    const { output, now, pause } = this.around;
    if (flags.offset !== undefined && flags.stream === 'both')
      throw new AegisError('cli.usage', '--offset counts bytes of one stream: add --stream stdout or --stream stderr.');
    const reading = { now, pause, giveUpAfterMs: flags['reconnect-for'] * 1000 };
    return await this.withApi(flags, async (api) => {
      if (args.command === undefined && flags.follow) {
        const sink = flags.json ? jsonSink(output) : prefixedSink(output, now, { summary: false });
        return await followEverything(api, sink, reading, (text) => this.note(text));
      }
      const id = args.command === undefined ? await latestCommand(api) : await commandIdOf(api, args.command);
      const stream = flags.stream === 'both' ? undefined : flags.stream;
      const sink: Sink = flags.json
        ? jsonSink(output)
        : (flags.prefix ?? (flags.node === undefined && (await isOnSeveral(api, id))))
          ? prefixedSink(output, now, { summary: false })
          : rawSink(output, { ontoStdout: stream !== undefined });
      const { node, attempt, offset, follow } = flags;
      const options = {
        ...reading,
        node,
        attempt,
        offset,
        follow,
        stream,
        onOutage: (state: 'lost' | 'back') => void this.note(outageText(state)),
      };
      const outcome = await followSession(api, id, { ...sink, end: flags.json ? sink.end : sink.close }, options);
      const running = outcome && (outcome.command.state === 'running' || outcome.command.state === 'pending');
      if (running && output.errIsTerminal && !flags.json)
        await this.note(`the command is ${outcome.command.state}; -f follows it.`);
      return undefined;
    });
  }
}

export const outageText = (state: 'lost' | 'back'): string =>
  state === 'lost' ? 'lost the server; trying to reach it again.' : 'the server is back.';

const latestCommand = async (api: Api): Promise<string> => {
  const { items } = await api.call(routes.listCommands, { query: { limit: 1 } });
  const [latest] = items;
  if (!latest)
    throw new AegisError('commands.unknown_command', "There is no command yet. Run one with 'aegis submit'.");
  return latest.command_id;
};

const isOnSeveral = async (api: Api, id: string): Promise<boolean> => {
  const { result } = await api.call(routes.showCommand, { params: { id } });
  return Object.values(result).reduce((sum, count) => sum + count, 0) > 1;
};
