import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { writeLocal } from '../artifacts/local-files.ts';
import { AegisCommand, serverFlags } from '../base-command.ts';
import { directiveText, readSigned } from '../signing/directives.ts';
import { keyFlags, operatorKey } from '../signing/operator-key.ts';
import { alsoSigned } from '../signing/wishes.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';

export class AccessSign extends AegisCommand {
  static override description =
    `Adds your signature to what somebody signed with 'aegis submit --sign-only', for nodes that obey several persons. What is signed is shown, made of the signed bytes alone, and asked about. No server is spoken to; 'aegis submit --signed FILE' submits it.`;
  static override examples = [
    { description: 'Read, say yes, sign', command: 'aegis access sign reboot.json --key ~/bob.key' },
    { description: 'Only look at it', command: 'aegis access sign reboot.json --show' },
  ];
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'What --sign-only printed' }),
  };
  static override flags = {
    show: Flags.boolean({ summary: 'Show what is signed and by which keys, and sign nothing', exclusive: ['yes'] }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
    output: Flags.string({ char: 'o', helpValue: 'FILE', summary: 'Write here (default: the same file)' }),
    key: keyFlags.key,
    'key-password-file': keyFlags['key-password-file'],
    context: serverFlags.context,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessSign);
    const { envelope, directive } = await readSigned(args.file);
    const signers = envelope.signatures.map(({ keyid }) => keyid);
    const shown = { directive, signers };
    const text = `${directiveText(directive)}signed by:  ${plainText(signers.join(', '))}\n`;
    if (flags.show) return await (flags.json ? this.printJson(shown) : this.print(text));
    const { output } = this.around;
    await output.err(text);
    await confirmed(output, flags.yes, 'Sign this?');
    const key = await operatorKey(flags, this.around);
    if (key === null)
      throw new AegisError('cli.usage', 'There is no key to sign with: give --key FILE, or set AEGIS_KEY.');
    if (signers.includes(key.keyId)) throw new AegisError('cli.usage', 'This key has signed it already.');
    const file = flags.output ?? args.file;
    writeLocal(file, `${JSON.stringify(await alsoSigned(envelope, { key }))}\n`);
    if (flags.json) return await this.printJson({ file, directive, signers: [...signers, key.keyId] });
    await this.note(`${plainText(file)} has ${signers.length + 1} signatures; 'aegis submit --signed' submits it.`);
  }
}
