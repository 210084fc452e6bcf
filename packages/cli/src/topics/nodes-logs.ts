import type { NodeLogLine } from '@aegis/protocol/backups/endpoints';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { logLine } from '../backups/run-text.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';

const GRAVE: Readonly<Record<NodeLogLine['level'], number>> = { debug: 0, info: 1, warning: 2, error: 3 };

export class NodesLogs extends ServerCommand {
  static override description =
    "Prints what a node logged of its backups, and what a backup agent logged of itself, the oldest first. What commands wrote is 'aegis logs'.";
  static override examples = [
    { description: 'All that is kept', command: 'aegis nodes logs web-1' },
    { description: 'What went wrong lately', command: 'aegis nodes logs web-1 --level warning | tail' },
  ];
  static override args = {
    node: Args.string({ required: true, ignoreStdin: true, description: 'Name or uid of the node' }),
  };
  static override flags = {
    level: Flags.option({
      options: ['debug', 'info', 'warning', 'error'] as const,
      default: 'debug' as const,
      summary: 'Only lines of this level and above',
    })(),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesLogs);
    await this.withApi(flags, async (api) => {
      const pages = everyPage((cursor) =>
        api.call(routes.nodeLog, { params: { id: args.node }, query: { limit: 1000, cursor } }),
      );
      for await (const { items } of pages) {
        const wanted = items.filter(({ level }) => (GRAVE[level] ?? 0) >= GRAVE[flags.level]);
        await this.print(wanted.map((line) => (flags.json ? `${JSON.stringify(line)}\n` : logLine(line))).join(''));
      }
    });
  }
}
