import type { Command, Execution } from '@aegis/protocol/commands/submission';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { commandIdOf } from '../api/command-id.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { exitText } from '../following/summary.ts';
import { cancelBody } from '../signing/directives.ts';
import { hasKey, keyFlags, operatorSigner } from '../signing/operator-key.ts';
import { facts, table } from '../ui/table.ts';
import { ago, byteCount, took } from '../ui/time.ts';

const idArg = Args.string({
  required: true,
  ignoreStdin: true,
  description: 'Command id, or its beginning (8 characters at least)',
});

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** What it runs, in one line. */
const whatOf = ({ verb, command_type, payload }: Command): string => {
  if (isRecord(payload) && typeof payload.cmd === 'string') return payload.cmd;
  if (isRecord(payload) && Array.isArray(payload.argv)) return payload.argv.join(' ');
  return verb || command_type;
};
const resultText = (result: Readonly<Record<string, number>>): string =>
  Object.entries(result)
    .map(([state, count]) => `${count} ${state}`)
    .join(', ');

const commandFacts = (command: Command, now: number): string =>
  facts([
    ['command', command.command_id],
    ['runs', whatOf(command)],
    ['type', command.command_type],
    ['state', command.state],
    ['nodes', resultText(command.result)],
    ['targets', command.agent_targets.join(', ')],
    ['submitted', `${command.created_at} (${ago(command.created_at, now)}) by ${command.actor.name}`],
    ['scheduled', command.scheduled_at],
    ['expires', command.expires_at],
    ['completed', command.completed_at],
    ['priority', command.priority],
    ['delivery', command.delivery],
    ['retries', command.max_retries > 0 ? `${command.retry_count} of ${command.max_retries}` : null],
    ['output limit', command.output_limit_bytes === 0 ? 'none' : `${byteCount(command.output_limit_bytes)} a stream`],
    ['correlation id', command.correlation_id === command.command_id ? null : command.correlation_id],
    ['idempotency key', command.idempotency_key],
    ['error', command.error_message],
  ]);

export class CommandsList extends ServerCommand {
  static override description = 'Lists submitted commands, the newest first.';
  static override examples = [
    { description: 'The latest 20', command: 'aegis commands list' },
    { description: 'What failed on one node', command: 'aegis commands list --status failed --node web-1' },
  ];
  static override flags = {
    status: Flags.option({
      options: ['pending', 'running', 'succeeded', 'partial', 'failed', 'cancelled', 'expired'] as const,
      summary: 'Only commands in this state',
    })(),
    node: Flags.string({ helpValue: 'NODE', summary: 'Only commands for this node' }),
    priority: Flags.option({
      options: ['critical', 'high', 'normal', 'low'] as const,
      summary: 'Only commands of this priority',
    })(),
    verb: Flags.string({ helpValue: 'VERB', summary: 'Only commands of this verb' }),
    'correlation-id': Flags.string({ helpValue: 'ID', summary: 'Only commands with this correlation id' }),
    limit: Flags.integer({ min: 1, default: 20, helpValue: 'N', summary: 'At most this many' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(CommandsList);
    const { status, node, priority, verb, limit } = flags;
    const query = {
      status,
      agent: node,
      priority,
      verb,
      correlation_id: flags['correlation-id'],
      limit: Math.min(1000, limit),
    };
    await this.withApi(flags, async (api) => {
      const commands: Command[] = [];
      for await (const page of everyPage((cursor) => api.call(routes.listCommands, { query: { ...query, cursor } }))) {
        commands.push(...page.items);
        if (commands.length >= limit) break;
      }
      commands.splice(limit);
      if (flags.json) return await this.printJson({ commands });
      const now = this.around.now();
      const rows = commands.map((command) => [
        command.command_id,
        command.state,
        ago(command.created_at, now),
        resultText(command.result),
        whatOf(command),
      ]);
      await this.print(table(['COMMAND', 'STATE', 'SUBMITTED', 'NODES', 'RUNS'], rows, this.width));
    });
  }
}

export class CommandsShow extends ServerCommand {
  static override description = 'Shows one command: what it runs, for whom, by whom, and what became of it.';
  static override examples = [
    { description: 'As text', command: 'aegis commands show $ID' },
    {
      description: 'Its state alone',
      command: 'aegis commands show $ID --json | jq -r .state',
    },
  ];
  static override args = { command: idArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(CommandsShow);
    await this.withApi(flags, async (api) => {
      const id = await commandIdOf(api, args.command);
      const command = await api.call(routes.showCommand, { params: { id } });
      await (flags.json ? this.printJson(command) : this.print(commandFacts(command, this.around.now())));
    });
  }
}

export class CommandsExecutions extends ServerCommand {
  static override description =
    "A command's executions: one for each node and attempt, with how it ended and how much it wrote.";
  static override examples = [
    { description: 'As a table', command: 'aegis commands executions $ID' },
    {
      description: 'Nodes on which it failed',
      command: 'aegis commands executions $ID --json | jq -r \'.executions[] | select(.state == "failed").node\'',
    },
  ];
  static override args = { command: idArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(CommandsExecutions);
    await this.withApi(flags, async (api) => {
      const id = await commandIdOf(api, args.command);
      const executions: Execution[] = [];
      const pages = everyPage((cursor) =>
        api.call(routes.listExecutions, { params: { id }, query: { limit: 1000, cursor } }),
      );
      for await (const { items } of pages) executions.push(...items);
      if (flags.json) return await this.printJson({ executions });
      const now = this.around.now();
      const rows = executions.map((one) => [
        one.node,
        String(one.attempt),
        one.presumed ? `${one.state} (presumed)` : one.state,
        exitText(one),
        took(one.started_at, one.finished_at, now),
        byteCount(one.output.stdout.bytes ?? one.output.stdout.next),
        byteCount(one.output.stderr.bytes ?? one.output.stderr.next),
        one.error?.message ?? '',
      ]);
      await this.print(
        table(['NODE', 'ATTEMPT', 'STATE', 'EXIT', 'TIME', 'STDOUT', 'STDERR', 'NOTE'], rows, this.width),
      );
    });
  }
}

export class CommandsCancel extends ServerCommand {
  static override description =
    'Cancels a command where it has not ended: what is queued never starts, what runs is ended with its whole process tree.';
  static override examples = [
    { description: 'Everywhere', command: 'aegis commands cancel $ID' },
    { description: 'On one node', command: 'aegis commands cancel $ID --node web-1' },
  ];
  static override args = { command: idArg };
  static override flags = {
    node: Flags.string({ helpValue: 'NODE', summary: 'Only on this node' }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(CommandsCancel);
    await this.withApi(flags, async (api) => {
      const id = await commandIdOf(api, args.command);
      const body = await cancelBody(await operatorSigner(api, flags, this.around), id, flags.node, this.around.now());
      const command = await api.call(routes.cancelCommand, { params: { id }, body });
      await (flags.json
        ? this.printJson(command)
        : this.print(`${command.command_id} ${command.state}: ${resultText(command.result)}\n`));
    });
  }
}

export class CommandsRetry extends ServerCommand {
  static override description =
    'Submits the same command anew for the nodes on which it did not succeed, and prints the new command id.';
  static override examples = [
    { description: 'Try the rest again', command: 'aegis commands retry $ID' },
    {
      description: 'And follow it',
      command: 'aegis logs -f "$(aegis commands retry $ID)"',
    },
  ];
  static override args = { command: idArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(CommandsRetry);
    await this.withApi(flags, async (api) => {
      const id = await commandIdOf(api, args.command);
      const answer = await api.call(routes.retryCommand, { params: { id }, body: {} });
      await (flags.json ? this.printJson(answer) : this.print(`${answer.command_id}\n`));
      if (await hasKey(flags, this.around))
        await this.note(
          "nobody has signed the new command: for nodes that obey operators alone, run 'aegis submit' again.",
        );
    });
  }
}
