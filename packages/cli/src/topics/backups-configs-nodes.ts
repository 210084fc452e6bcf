import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import type { ServerFlags } from '../api/settings.ts';
import { configFacts } from '../backups/config-text.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { signingNote } from '../signing/operator-key.ts';
import { plainText } from '../ui/plain-text.ts';
import { answerText, configArg } from './backups-configs.ts';

const assignFlags = {
  'dry-run': Flags.boolean({ summary: 'Only show which nodes it would reach' }),
  ...serverFlags,
};

/** NAME and what follows it. @throws AegisError cli.usage */
const wordsOf = (argv: readonly unknown[], verb: string): { name: string; targets: string[] } => {
  const [name, ...targets] = argv.map(String);
  if (name === undefined || targets.length === 0)
    throw new AegisError(
      'cli.usage',
      `Name a configuration and at least one node: aegis backups configs ${verb} NAME NODE…`,
    );
  return { name, targets };
};

abstract class Assigning extends ServerCommand {
  protected async assign(
    change: 'add' | 'remove',
    { name, targets }: { name: string; targets: string[] },
    flags: ServerFlags & { json: boolean; 'dry-run': boolean },
  ): Promise<undefined> {
    const dry_run = flags['dry-run'];
    await this.withApi(flags, async (api) => {
      const answer = await api.call(routes.assignConfig, {
        params: { id: name },
        body: { [change]: targets, dry_run },
      });
      await (flags.json ? this.printJson(answer) : this.print(answerText(answer, dry_run)));
      const note = answer.changed && !dry_run ? await signingNote(flags, this.around, answer.config.name) : null;
      if (note) await this.note(note);
    });
  }
}

export class BackupsConfigsAssign extends Assigning {
  static override description =
    "Adds names and selectors to a configuration's nodes. Nodes that come to match a selector later are included by themselves. A node that is offline takes it over when it comes back.";
  static override usage = ['backups configs assign NAME NODE... [FLAGS]'];
  static override examples = [
    { description: 'Two nodes', command: 'aegis backups configs assign etc web-1 web-2' },
    {
      description: 'All of a site, also those to come',
      command: "aegis backups configs assign etc 'site=fra' --dry-run",
    },
  ];
  static override strict = false;
  static override flags = assignFlags;

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(BackupsConfigsAssign);
    return await this.assign('add', wordsOf(argv, 'assign'), flags);
  }
}

export class BackupsConfigsUnassign extends Assigning {
  static override description =
    "Takes names and selectors off a configuration's nodes, as they stand there ('aegis backups configs show'). A run that is under way goes on; archives stay.";
  static override usage = ['backups configs unassign NAME NODE... [FLAGS]'];
  static override examples = [
    { description: 'One node', command: 'aegis backups configs unassign etc web-2' },
    { description: 'A selector, tried out first', command: "aegis backups configs unassign etc 'site=fra' --dry-run" },
  ];
  static override strict = false;
  static override flags = assignFlags;

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(BackupsConfigsUnassign);
    return await this.assign('remove', wordsOf(argv, 'unassign'), flags);
  }
}

export class BackupsConfigsProbe extends ServerCommand {
  static override description =
    `Lets the server try the destination: reach it, write, write only where nothing is yet, delete. Says what it lacks.

Exit code: 0 when backups can go there, 1 when not.`;
  static override examples = [
    { description: 'After a change at the bucket', command: 'aegis backups configs probe db' },
    { description: 'For a script', command: 'aegis backups configs probe db --json | jq .probe' },
  ];
  static override args = { name: configArg };
  static override flags = { ...serverFlags };

  async run(): Promise<number> {
    const { flags, args } = await this.parse(BackupsConfigsProbe);
    return await this.withApi(flags, async (api) => {
      const config = await api.call(routes.probeConfig, { params: { id: args.name } });
      if (flags.json) await this.printJson(config);
      else {
        await this.print(configFacts(config, this.around.now()).replace(/^(?!destination|endpoint|probe).*\n/gm, ''));
        for (const line of config.probe?.notes ?? []) await this.note(plainText(line));
      }
      return config.probe?.ok === true || config.destination.kind === 'file' ? 0 : 1;
    });
  }
}
