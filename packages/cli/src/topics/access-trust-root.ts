import type { KeyPair } from '@aegis/protocol/access/keys';
import type { TrustChange, TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { requireAsked, requireFingerprint } from '../access/trust-asked.ts';
import { rootKeyFrom, settle, sign, signaturesOf } from '../access/trust-draft.ts';
import { changesText } from '../access/trust-text.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { requireHead, startsAtNewest } from '../signing/known-heads.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { readPublicKeyText } from './access-key-files.ts';

export class AccessTrustRotateRoot extends ServerCommand {
  static override description =
    `Puts another root in the place of the present one: one or several keys, of which --threshold have to sign each later trust bundle. The change is signed by the present root and by the new one. Nodes walk from root to root; join tokens that were made before are good no more, so make new ones.

With --on-server the server makes the new key and keeps it. Otherwise give the public keys ('aegis access keys create'), and sign with what is at hand (--sign-with); if that is not enough, --out writes a draft for the others. What the server drafted is signed only if it is this change and no other, and is shown before.`;
  static override examples = [
    { description: 'A new key, kept by the server', command: 'aegis access trust rotate-root --on-server' },
    {
      description: 'Two of three persons from now on',
      command:
        'aegis access trust rotate-root --root-key alice=alice.pub --root-key bob=bob.pub --root-key carol=carol.pub --threshold 2 --out root.json',
    },
    {
      description: 'Off the server, to a key on a stick',
      command: 'aegis access trust rotate-root --root-key root2.pub --sign-with /media/usb/root2.key',
    },
  ];
  static override flags = {
    'root-key': Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: '[PERSON=]FILE',
      summary: 'Public key of the new root; repeatable',
    }),
    threshold: Flags.integer({
      min: 1,
      helpValue: 'N',
      summary: 'How many keys, or persons, have to sign (default: 1)',
    }),
    'on-server': Flags.boolean({
      summary: 'Let the server make and keep the key',
      exclusive: ['root-key', 'threshold'],
    }),
    'sign-with': Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'FILE',
      summary: 'Secret key of the present or the new root; repeatable',
    }),
    root: Flags.string({
      helpValue: 'HEX',
      summary: 'Fingerprint of the root that is in force, where the keys of --sign-with alone do not show it',
      dependsOn: ['sign-with'],
    }),
    head: Flags.string({
      helpValue: 'VERSION:DIGEST',
      summary: 'The version that is in force, as a node shows it',
      dependsOn: ['sign-with'],
    }),
    'password-file': Flags.string({
      helpValue: 'FILE',
      summary: "Read the keys' password from a file's first line (-: standard input)",
    }),
    out: Flags.string({ helpValue: 'FILE', summary: 'Where a draft goes that others have to sign' }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessTrustRotateRoot);
    requireFingerprint(flags.root);
    requireHead(flags.head);
    const root = rootOf(flags['root-key'], flags.threshold, flags['on-server']);
    const keys: KeyPair[] = [];
    for (const path of flags['sign-with'] ?? [])
      keys.push(await rootKeyFrom(path, flags['password-file'], this.around.output));
    const agreed = () => confirmed(this.around.output, flags.yes, 'Replace the root of all trust of this fleet?');
    if (keys.length === 0) await agreed();
    const signed = async (drafted: TrustDraft): Promise<TrustDraft> => {
      const nowMs = this.around.now();
      const checked = await requireAsked(drafted, root, { keys, root: flags.root, nowMs });
      const note = await startsAtNewest(this.around, drafted, checked, flags.head);
      const rows = [
        `root fingerprint ${checked.rootFingerprint}`,
        ...(await changesText(checked.before, checked.after)),
      ];
      await this.around.output.err(`${rows.join('\n')}\n`);
      await agreed();
      let draft = drafted;
      for (const key of keys) draft = await sign(draft, key);
      if (flags.out !== undefined || (await signaturesOf(draft)).enough) note(); // otherwise the signatures stay here
      return draft;
    };
    await this.withApi(flags, async (api) => {
      const published = await settle(api, { root }, { out: flags.out, ...(keys.length > 0 ? { signed } : {}) });
      if (flags.json) return await this.printJson(published ?? { draft: flags.out });
      if (!published)
        return await this.print(`${flags.out} has to be signed by the others ('aegis access trust sign')\n`);
      await this.print(
        facts([
          ['version', String(published.trust_version)],
          ['root fingerprint', published.root_fingerprint],
          ['expires', plainText(published.expires_at)],
        ]),
      );
      await this.note(
        'Join tokens made before name the old root: make new ones. Keep the old key until every node was there.',
      );
    });
  }
}

/** @throws AegisError cli.usage */
const rootOf = (
  given: readonly string[] | undefined,
  threshold: number | undefined,
  onServer: boolean,
): NonNullable<TrustChange['root']> => {
  if (onServer) return { on_server: true };
  if (!given)
    throw new AegisError('cli.usage', 'Say what the new root is: --root-key FILE, as often as needed, or --on-server.');
  const keys = given.map((text) => {
    const [, person, file = text] = /^([^=/]+)=(.+)$/.exec(text) ?? [];
    return { public_key: readPublicKeyText(file), ...(person === undefined ? {} : { person }) };
  });
  return { threshold: threshold ?? 1, keys };
};
