import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { plainText } from '../ui/plain-text.ts';

const nodeArg = Args.string({ required: true, ignoreStdin: true, description: 'Name or uid of the node' });

export class NodesRegisterAgent extends ServerCommand {
  static override description =
    "Registers a small program that backs up through /api/agent, without a daemon, and prints its API key alone: it is shown this once. Configurations name it by the node's name that is made of NAME.";
  static override examples = [
    { description: 'The key into a file', command: `aegis nodes register-agent "David's MacBook" >agent.key` },
    {
      description: 'With what else is known of it',
      command: 'aegis nodes register-agent laptop --platform darwin --json',
    },
  ];
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: 'What people call it' }),
  };
  static override flags = {
    platform: Flags.string({ summary: 'Its operating system, e.g. linux or darwin', helpValue: 'NAME' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesRegisterAgent);
    await this.withApi(flags, async (api) => {
      const { agent } = await api.call(routes.registerAgent, {
        body: { name: args.name, ...(flags.platform === undefined ? {} : { platform: flags.platform }) },
      });
      if (flags.json) return this.printJson(agent);
      await this.note(`registered as the node ${plainText(agent.node)}. The key is not shown again.`);
      return this.print(`${agent.apiKey}\n`);
    });
  }
}

export class NodesDeactivate extends ServerCommand {
  static override description =
    "From now on nothing is taken from the node: its token, or its agent's API key, is refused at once. 'aegis nodes activate' takes that back. What it is doing goes on.";
  static override examples = [
    { description: 'A laptop that was lost', command: 'aegis nodes deactivate laptop-7' },
    { description: 'The node as JSON', command: 'aegis nodes deactivate laptop-7 --json' },
  ];
  static override args = { node: nodeArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesDeactivate);
    await this.withApi(flags, async (api) => {
      const node = await api.call(routes.deactivateNode, { params: { id: args.node } });
      await (flags.json ? this.printJson(node) : this.print(`${plainText(node.name)} is deactivated\n`));
    });
  }
}

export class NodesActivate extends ServerCommand {
  static override description = "Takes the node's credentials again, after 'aegis nodes deactivate'.";
  static override examples = [
    { description: 'It was found', command: 'aegis nodes activate laptop-7' },
    { description: 'The node as JSON', command: 'aegis nodes activate laptop-7 --json' },
  ];
  static override args = { node: nodeArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesActivate);
    await this.withApi(flags, async (api) => {
      const node = await api.call(routes.activateNode, { params: { id: args.node } });
      await (flags.json ? this.printJson(node) : this.print(`${plainText(node.name)} is active\n`));
    });
  }
}
