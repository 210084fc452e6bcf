import type { NewTrustedKey, TrustedKey } from '@aegis/protocol/access/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { settle } from '../access/trust-draft.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { idOf } from './access-keys.ts';
import { makeKey, newKeyFlags } from './access-new-key.ts';

export class AccessKeysRotate extends ServerCommand {
  static override description =
    `Makes a key pair as 'aegis access keys create' does, lists it with the usage, person and scope of the old key, and revokes that, all in one new trust bundle. What the old key signed counts no more: artifacts have to be signed anew, and orders that still wait are refused.

Where the root's key is kept elsewhere, --draft-out writes the change to a file that has to be signed and published; until then the old key counts.`;
  static override examples = [
    {
      description: "An operator's yearly one",
      command: 'aegis access keys rotate E7620F1842B4E81F alice-2027 --out ~/keys',
    },
    {
      description: 'With the root key elsewhere',
      command: 'aegis access keys rotate E7620F1842B4E81F alice-2027 --draft-out rotate.json --yes',
    },
  ];
  static override args = {
    key: Args.string({ required: true, ignoreStdin: true, description: 'Id of the old key, as the list shows it' }),
    name: Args.string({ required: true, ignoreStdin: true, description: 'Name of the new key and its two files' }),
  };
  static override flags = {
    ...newKeyFlags,
    'draft-out': Flags.string({ helpValue: 'FILE', summary: 'Where a draft goes that others have to sign' }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessKeysRotate);
    await this.withApi(flags, async (api) => {
      const old: TrustedKey[] = [];
      for await (const page of everyPage((cursor) => api.call(routes.listKeys, { query: { limit: 1000, cursor } })))
        old.push(...page.items.filter((key) => isNamed(key, args.key)));
      const [key] = old;
      if (!key || old.length > 1)
        throw new AegisError(
          'access.unknown_key',
          `'${plainText(args.key)}' names ${old.length === 0 ? 'no key' : 'several keys'}. 'aegis access keys list' shows each with its id.`,
        );
      const usage = key.usage.filter((one): one is NewTrustedKey['usage'][number] => one !== 'serve');
      if (usage.length === 0)
        throw new AegisError(
          'access.key_conflict',
          "That is a server's own key: 'aegis server rotate-key' replaces it.",
        );
      if (key.state === 'revoked')
        throw new AegisError(
          'access.key_conflict',
          `${idOf(key)} (${plainText(key.name)}) is revoked already. Make a key with 'aegis access keys create', and add it.`,
        );
      await confirmed(
        this.around.output,
        flags.yes,
        `Replace ${plainText(key.name)} (${idOf(key)}), and revoke it for good?`,
      );
      const made = await makeKey(this.around.output, args.name, flags);
      const wanted: NewTrustedKey = {
        public_key: made.publicText,
        name: args.name,
        usage,
        ...(key.person === null ? {} : { person: key.person }),
        ...(key.scope === null ? {} : { scope: key.scope }),
      };
      const published = await settle(api, { add: [wanted], revoke: [key.keyid] }, { out: flags['draft-out'] });
      const { keyFile, publicFile } = made.files;
      if (flags.json)
        return await this.printJson({
          key_file: keyFile,
          public_key_file: publicFile,
          minisign_id: made.key.minisignId,
          keyid: made.key.keyId,
          revoked: published ? key.keyid : null,
          trust_version: published?.trust_version ?? null,
          draft: published ? null : (flags['draft-out'] ?? null),
        });
      await this.print(
        facts([
          ['secret key', keyFile],
          ['public key', publicFile],
          ['id', made.key.minisignId],
          ['key id', made.key.keyId],
          ['in place of', `${idOf(key)} (${key.name})`],
          [
            'in force',
            published ? `now, version ${published.trust_version}` : `once ${flags['draft-out']} is published`,
          ],
        ]),
      );
    });
  }
}

const isNamed = ({ keyid, minisign_id }: TrustedKey, id: string): boolean =>
  minisign_id === id.toUpperCase() || (/^[0-9a-f]{16,64}$/i.test(id) && keyid.startsWith(id.toLowerCase()));
