import * as Args from '@oclif/core/args';
import { AegisCommand } from '../base-command.ts';
import { completionScript, SHELLS, type Shell } from '../completion-scripts.ts';
import { completionTable } from '../completion-table.ts';

export class Completion extends AegisCommand {
  static override description =
    'Prints a script that completes commands, flags and their choices. It is made from the command table and needs nothing else; print it again after an upgrade.';
  static override examples = [
    {
      description: 'bash, for this user',
      command: 'aegis completion bash > ~/.local/share/bash-completion/completions/aegis',
    },
    { description: 'zsh', command: 'aegis completion zsh > ~/.zsh/functions/_aegis' },
    { description: 'fish', command: 'aegis completion fish > ~/.config/fish/completions/aegis.fish' },
  ];
  static override args = {
    shell: Args.string({ required: true, ignoreStdin: true, options: [...SHELLS], description: 'bash, zsh or fish' }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(Completion);
    const script = completionScript(args.shell as Shell, await completionTable());
    await (flags.json ? this.printJson({ shell: args.shell, script }) : this.print(script));
  }
}
