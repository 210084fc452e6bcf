import type { TrustedKey } from '@aegis/protocol/access/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { keyUseFlags, scopeOf, usageFlag } from '../access/key-scope.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { AegisCommand, ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { nameOfFile, readPublicKeyText } from './access-key-files.ts';
import { makeKey, newKeyFlags } from './access-new-key.ts';

/** What a list shows of a key, and `revoke` takes. */
export const idOf = ({ minisign_id, keyid }: TrustedKey): string => minisign_id ?? keyid.slice(0, 16);

const keyFacts = (key: TrustedKey): string =>
  facts([
    ['id', idOf(key)],
    ['name', key.name],
    ['person', key.person],
    ['usage', key.usage.join(', ')],
    ['scope', key.scope?.selector],
    ['kinds', key.scope?.kinds?.join(', ')],
    ['until', key.until],
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
  static override flags = { ...newKeyFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysCreate);
    const { files, key, publicText, isEncrypted } = await makeKey(this.around.output, args.name, flags);
    const [, public_key = ''] = publicText.split('\n');
    if (flags.json)
      return await this.printJson({
        name: args.name,
        key_file: files.keyFile,
        public_key_file: files.publicFile,
        minisign_id: key.minisignId,
        keyid: key.keyId,
        public_key,
        encrypted: isEncrypted,
      });
    await this.print(
      facts([
        ['secret key', `${files.keyFile} (${isEncrypted ? 'under a password' : 'without a password'})`],
        ['public key', files.publicFile],
        ['id', key.minisignId],
        ['key id', key.keyId],
      ]),
    );
    await this.note(
      `'aegis access keys add ${files.publicFile} --usage artifacts' lets it sign artifacts, '--usage operate --person YOU' your orders.`,
    );
  }
}

export class AccessKeysAdd extends ServerCommand {
  static override description =
    `Lets a key sign an operator's orders, artifacts or releases: the server's root key signs a new trust bundle that lists it, and every node takes that at once (where the root key is elsewhere: 'aegis access trust draft'). FILE is a .pub file of 'aegis access keys create' or 'minisign -G', or has the base64 of an Ed25519 public key as Vault's transit engine shows it; - is standard input.

Who holds a key that is trusted for artifacts decides what runs in the kernel of every node that an artifact is assigned to. An operator's key counts on nodes whose own policy obeys operators; --scope and --kind bound it.`;
  static override examples = [
    { description: 'By its file', command: 'aegis access keys add release.pub --usage artifacts --person alice' },
    {
      description: "An operator's, for commands in Frankfurt",
      command:
        'aegis access keys add alice.pub --usage operate --person alice --scope site=fra --kind command.run --kind command.cancel',
    },
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
    ...usageFlag,
    name: Flags.string({ helpValue: 'NAME', summary: "How lists show it (default: the file's name)" }),
    ...keyUseFlags,
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysAdd);
    const { usage } = flags;
    if (usage === undefined)
      throw new AegisError('cli.usage', 'Say what the key may do: --usage operate, artifacts or release.');
    const public_key = readPublicKeyText(args.file);
    const name = flags.name ?? nameOfFile(args.file);
    if (name === null) throw new AegisError('cli.usage', 'A key from standard input has no name yet: give --name.');
    // Before anything is sent: a secret key that was named by mistake stays here.
    const { parsePublicKey } = await import('@aegis/protocol/access/minisign');
    parsePublicKey(public_key);
    await this.withApi(flags, async (api) => {
      const person = flags.person === undefined ? {} : { person: flags.person };
      const key = await api.call(routes.addKey, { body: { public_key, name, usage, ...person, ...scopeOf(flags) } });
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
      const stateOf = ({ state, until }: TrustedKey): string => (until === null ? state : `${state} until ${until}`);
      const rows = keys.map((key) => [idOf(key), key.name, key.person ?? '', key.usage.join(','), stateOf(key)]);
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
