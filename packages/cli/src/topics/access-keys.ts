import type { TrustedKey } from '@aegis/protocol/access/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { AegisCommand, ServerCommand, serverFlags } from '../base-command.ts';
import { readPassword } from '../ui/ask-password.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { keyFilesOf, nameOfFile, readPublicKeyText, writeKeyFiles } from './access-key-files.ts';

/** What a list shows of a key, and `revoke` takes. */
const idOf = ({ minisign_id, keyid }: TrustedKey): string => minisign_id ?? keyid.slice(0, 16);

const keyFacts = (key: TrustedKey): string =>
  facts([
    ['id', idOf(key)],
    ['name', key.name],
    ['person', key.person],
    ['usage', key.usage.join(', ')],
    ['state', key.state],
    ['key id', key.keyid],
  ]);

export class AccessKeysCreate extends AegisCommand {
  static override description =
    `Writes NAME.key, the secret key (mode 0600), and NAME.pub, the public one, as minisign does: 'minisign -S' signs with the one, 'minisign -V' verifies with the other. Nothing is sent anywhere.

The secret key stands under a password, which is asked for on the terminal or read from --password-file. It takes 1 GiB of memory and some seconds to open it, so that guessing is dear.`;
  static override examples = [
    { description: 'A key for releases', command: 'aegis access keys create release' },
    {
      description: 'With a password from a password manager',
      command: 'pass aegis/release | aegis access keys create release --out ~/keys --password-file -',
    },
  ];
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: 'Name of the two files' }),
  };
  static override flags = {
    out: Flags.string({ default: '.', helpValue: 'DIR', summary: 'Folder for both files' }),
    'password-file': Flags.string({
      helpValue: 'FILE',
      summary: "Read the password from a file's first line (-: standard input)",
    }),
    'no-password': Flags.boolean({
      summary: 'Whoever has the file can sign; for machines that hold it in a safe place',
      exclusive: ['password-file'],
    }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysCreate);
    const files = keyFilesOf(flags.out, args.name);
    const password = flags['no-password'] ? null : await this.newPassword(flags['password-file'], args.name);
    const { formatMinisignSecretKey, generateMinisignKey } = await import('@aegis/protocol/access/minisign-secret-key');
    const { formatMinisignPublicKey } = await import('@aegis/protocol/access/minisign');
    const key = generateMinisignKey();
    const publicText = formatMinisignPublicKey({ minisignId: key.minisignId, raw: key.publicRaw });
    writeKeyFiles(files, await formatMinisignSecretKey(key, password), publicText);
    const [, public_key = ''] = publicText.split('\n');
    if (flags.json)
      return await this.printJson({
        name: args.name,
        key_file: files.keyFile,
        public_key_file: files.publicFile,
        minisign_id: key.minisignId,
        keyid: key.keyId,
        public_key,
        encrypted: password !== null,
      });
    await this.print(
      facts([
        ['secret key', `${files.keyFile} (${password === null ? 'without a password' : 'under a password'})`],
        ['public key', files.publicFile],
        ['id', key.minisignId],
      ]),
    );
    await this.note(`'aegis access keys add ${files.publicFile} --usage artifacts' lets it sign artifacts.`);
  }

  /** On the terminal it is asked for twice, because nobody sees what was typed. */
  private async newPassword(file: string | undefined, name: string): Promise<string> {
    const { output } = this.around;
    const password = await readPassword(output, file, `New password of ${plainText(name)}:`);
    if (password === '')
      throw new AegisError('access.bad_password', 'The password is empty. --no-password makes a key without one.');
    if (file === undefined && (await readPassword(output, undefined, 'The same again:')) !== password)
      throw new AegisError('access.bad_password', 'The two passwords differ; nothing was written. Try again.');
    return password;
  }
}

export class AccessKeysAdd extends ServerCommand {
  static override description =
    `Lets a key sign artifacts: the server's root key signs a new trust bundle that lists it, and every node takes that at once. FILE is a .pub file of 'aegis access keys create' or 'minisign -G', or has the base64 of an Ed25519 public key as Vault's transit engine shows it; - is standard input.

Who holds a key that is trusted for artifacts decides what runs in the kernel of every node that an artifact is assigned to.`;
  static override examples = [
    { description: 'By its file', command: 'aegis access keys add release.pub --usage artifacts --person alice' },
    {
      description: "A key of Vault's transit engine",
      command:
        'vault read -field=keys -format=json transit/keys/release | jq -r \'.["1"].public_key\' | aegis access keys add - --usage artifacts --name vault-release',
    },
  ];
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'Public key file (-: standard input)' }),
  };
  static override flags = {
    usage: Flags.option({
      options: ['artifacts'] as const,
      required: true,
      summary: 'What the key may do: sign artifacts',
    })(),
    name: Flags.string({ helpValue: 'NAME', summary: "How lists show it (default: the file's name)" }),
    person: Flags.string({ helpValue: 'NAME', summary: 'Whose key it is' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysAdd);
    const public_key = readPublicKeyText(args.file);
    const name = flags.name ?? nameOfFile(args.file);
    if (name === null) throw new AegisError('cli.usage', 'A key from standard input has no name yet: give --name.');
    // Before anything is sent: a secret key that was named by mistake stays here.
    const { parsePublicKey } = await import('@aegis/protocol/access/minisign');
    parsePublicKey(public_key);
    await this.withApi(flags, async (api) => {
      const person = flags.person === undefined ? {} : { person: flags.person };
      const key = await api.call(routes.addKey, { body: { public_key, name, usage: [flags.usage], ...person } });
      await (flags.json ? this.printJson(key) : this.print(keyFacts(key)));
    });
  }
}

export class AccessKeysList extends ServerCommand {
  static override description =
    "Lists the keys in the fleet's trust bundle, the server's own and revoked ones included. The id is the one that minisign prints; a key without one shows the beginning of its key id.";
  static override examples = [
    { description: 'As a table', command: 'aegis access keys list' },
    {
      description: 'Who may sign artifacts',
      command:
        'aegis access keys list --json | jq -r \'.keys[] | select(.state == "active" and (.usage | index("artifacts"))) | .name\'',
    },
  ];
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessKeysList);
    await this.withApi(flags, async (api) => {
      const keys: TrustedKey[] = [];
      let trust_version = 0;
      for await (const page of everyPage((cursor) => api.call(routes.listKeys, { query: { limit: 1000, cursor } }))) {
        keys.push(...page.items);
        trust_version = page.trust_version;
      }
      if (flags.json) return await this.printJson({ keys, trust_version });
      const rows = keys.map((key) => [idOf(key), key.name, key.person ?? '', key.usage.join(','), key.state]);
      await this.print(table(['ID', 'NAME', 'PERSON', 'USAGE', 'STATE'], rows, this.width));
    });
  }
}

export class AccessKeysRevoke extends ServerCommand {
  static override description =
    'From now on no node loads what this key signed, whenever it did. What runs already goes on, and is reported. A revoked key never comes back.';
  static override examples = [
    { description: 'Asks first, on a terminal', command: 'aegis access keys revoke E7620F1842B4E81F' },
    { description: 'In a script', command: 'aegis access keys revoke E7620F1842B4E81F --yes' },
  ];
  static override args = {
    key: Args.string({ required: true, ignoreStdin: true, description: 'Id of the key, as the list shows it' }),
  };
  static override flags = { yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }), ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysRevoke);
    await confirmed(this.around.output, flags.yes, `Revoke the key ${plainText(args.key)} for good?`);
    await this.withApi(flags, async (api) => {
      const key = await api.call(routes.revokeKey, { params: { id: args.key } });
      await (flags.json ? this.printJson(key) : this.print(`${idOf(key)} (${plainText(key.name)}) is revoked\n`));
    });
  }
}
