import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { AegisCommand } from '../base-command.ts';

export class BackupsKeyGenerate extends AegisCommand {
  static override description =
    `Makes an age identity: the secret that opens encrypted backups, in a file of age-keygen's form that only you can read and that is never written over. Prints the recipient, its public half, which a configuration encrypts to. Neither nodes nor server ever need the identity; without it encrypted backups are lost, so keep copies of the file in other places.`;
  static override examples = [
    { description: 'A new identity', command: 'aegis backups key generate -o backup.key' },
    {
      description: 'And a configuration that encrypts to it',
      command: 'aegis backups configs edit etc --recipient "$(aegis backups key generate -o backup.key 2>/dev/null)"',
    },
  ];
  static override flags = {
    output: Flags.string({ char: 'o', required: true, helpValue: 'FILE', summary: 'Where the identity goes' }),
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(BackupsKeyGenerate);
    if (flags.output === '-')
      throw new AegisError('cli.usage', 'A secret does not go to standard output: name a file with -o.');
    const { writeIdentity } = await import('../backups/identities.ts');
    const recipient = writeIdentity(flags.output, new Date(this.around.now()));
    if (flags.json) return await this.printJson({ file: flags.output, recipient });
    await this.print(`${recipient}\n`);
    await this.note(`the identity is in ${flags.output}: keep copies of it; without it these backups cannot be read.`);
  }
}
