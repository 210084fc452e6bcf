import type { DirectiveKind } from '@aegis/protocol/access/directive';
import type { TrustChange } from '@aegis/protocol/access/trust-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { keyUseFlags, scopeOf, usageFlag } from '../access/key-scope.ts';
import { checkedDraft, followsItsBefore, requireFingerprint } from '../access/trust-asked.ts';
import {
  envelopeOf,
  missing,
  readDraft,
  replaceDraft,
  rootKeyFrom,
  sign,
  signaturesOf,
  writeNewDraft,
} from '../access/trust-draft.ts';
import { changesText, idsOf, rootText } from '../access/trust-text.ts';
import { routes } from '../api/routes.ts';
import { AegisCommand, ServerCommand, serverFlags } from '../base-command.ts';
import { requireHead, startsAtNewest } from '../signing/known-heads.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { secondsOf } from '../ui/time.ts';
import { nameOfFile, readPublicKeyText } from './access-key-files.ts';

/** The trust bundle where the root's keys are kept elsewhere: drafted at the server, signed where the keys are, published. */

export class AccessTrustShow extends ServerCommand {
  static override description =
    "Shows the trust bundle that is in force: version, expiry, and the root whose keys sign it. 'aegis access keys list' shows the keys in it.";
  static override examples = [
    { description: 'For people', command: 'aegis access trust show' },
    { description: 'Its number and digest, to write down', command: 'aegis access trust show --json | jq -r .head' },
  ];
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessTrustShow);
    await this.withApi(flags, async (api) => {
      const { trust_bundle, root_fingerprint } = await api.call(routes.showTrust);
      const { openTrustBundle } = await import('@aegis/protocol/access/trust-bundle');
      const { ageOf, digestOf } = await import('@aegis/protocol/access/trust-chain');
      const { bundle } = openTrustBundle(trust_bundle, root_fingerprint, Number.NEGATIVE_INFINITY);
      const head = `${bundle.version}:${digestOf(trust_bundle)}`;
      const { fleet, version, issued_at, expires_at, root } = bundle;
      const age = ageOf(bundle, this.around.now());
      if (flags.json)
        return await this.printJson({
          fleet,
          trust_version: version,
          head,
          root_fingerprint,
          issued_at,
          expires_at,
          age,
          root,
        });
      await this.print(
        facts([
          ['fleet', plainText(fleet)],
          ['version', `${version}, issued ${plainText(issued_at)}`],
          ['expires', `${plainText(expires_at)}${age === 'good' ? '' : ` (${age})`}`],
          ['root', rootText(root, await idsOf())],
          ['root fingerprint', root_fingerprint],
          ['head', head],
        ]),
      );
    });
  }
}

export class AccessTrustDraft extends ServerCommand {
  static override description =
    `Writes the next trust bundle to a file, not yet signed, from what is in force at the server. Have it signed where the root's keys are ('aegis access trust sign'), as often as the root's threshold says, and bring it back ('aegis access trust publish'). Whatever changes in between makes the draft void.

Without any change it renews: the same keys, and a new expiry.`;
  static override examples = [
    { description: 'Renew what expires', command: 'aegis access trust draft --out renew.json' },
    {
      description: "An operator's key in, another one out",
      command:
        'aegis access trust draft --add alice.pub --usage operate --person alice --scope site=fra --revoke E7620F1842B4E81F --out change.json',
    },
    {
      description: 'Take back nodes that are ahead of a restored server (their log says of which head)',
      command: 'aegis access trust draft --merge 7:b3…4f --out merge.json',
    },
  ];
  static override flags = {
    out: Flags.string({ required: true, helpValue: 'FILE', summary: 'Where to write the draft' }),
    add: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'FILE',
      summary: 'Public key to list, with --usage; repeatable',
    }),
    ...usageFlag,
    ...keyUseFlags,
    revoke: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'ID',
      summary: 'Key to revoke for good; repeatable',
    }),
    lifetime: Flags.string({ helpValue: 'TIME', summary: 'How long it is valid (default: as long as the one before)' }),
    merge: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'VERSION:DIGEST',
      summary: 'Let nodes follow that hold a version which the server lost; repeatable',
    }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessTrustDraft);
    const change = changeOf(flags);
    await this.withApi(flags, async (api) => {
      const draft = await api.call(routes.draftTrust, { body: change });
      writeNewDraft(flags.out, draft);
      const signed = await signaturesOf(draft);
      if (flags.json) return await this.printJson({ file: flags.out, ...signed });
      await this.print(`${flags.out}: ${missing(signed)}\n`);
    });
  }
}

interface DraftFlags {
  add?: string[] | undefined;
  usage?: ('operate' | 'artifacts' | 'release')[] | undefined;
  person?: string | undefined;
  scope?: string | undefined;
  kind?: DirectiveKind[] | undefined;
  revoke?: string[] | undefined;
  lifetime?: string | undefined;
  merge?: string[] | undefined;
}
/** @throws AegisError cli.usage */
const changeOf = (given: DraftFlags): TrustChange => {
  if ((given.add !== undefined) !== (given.usage !== undefined))
    throw new AegisError('cli.usage', '--add and --usage belong together: say of each key what it may do.');
  const add = (given.add ?? []).map((file) => {
    const name = nameOfFile(file);
    if (name === null) throw new AegisError('cli.usage', 'A draft takes keys from files: give each --add a .pub file.');
    return {
      public_key: readPublicKeyText(file),
      name,
      usage: given.usage ?? [],
      ...(given.person === undefined ? {} : { person: given.person }),
      ...scopeOf(given),
    };
  });
  const seconds = given.lifetime === undefined ? undefined : secondsOf(given.lifetime);
  if (seconds === null || (seconds !== undefined && seconds < 86_400))
    throw new AegisError('cli.usage', `--lifetime ${given.lifetime}: give a time of at least a day, as in 365d.`);
  const merges = given.merge?.map((text) => {
    const [, version = '', digest = ''] = /^([1-9]\d{0,8}):([0-9a-f]{64})$/.exec(text) ?? [];
    if (digest === '')
      throw new AegisError('cli.usage', `--merge ${text.slice(0, 80)}: give VERSION:DIGEST, as a node's log shows it.`);
    return { version: Number(version), digest };
  });
  return {
    ...(add.length > 0 ? { add } : {}),
    ...(given.revoke ? { revoke: given.revoke } : {}),
    ...(merges ? { merges } : {}),
    ...(seconds === undefined ? {} : { lifetime_sec: Math.round(seconds) }),
  };
};

export class AccessTrustSign extends AegisCommand {
  static override description =
    `Shows what a draft changes, asks, and adds a signature to the file. Needs no server and no network: meant for the machine on which a key of the root's is kept.

Read what is shown: whoever signs decides whom every node of the fleet obeys. --root names the root that you know, so that a draft of another fleet is noticed. The version that you signed last is remembered (~/.config/aegis/known_heads): a draft that starts before it is refused. --head says yourself at which one it has to start.`;
  static override examples = [
    {
      description: 'With the key that init wrote',
      command: 'aegis access trust sign change.json --key /media/usb/root.pem',
    },
    {
      description: "With one person's key of several",
      command: 'aegis access trust sign change.json --key ~/keys/root-alice.key --root 5f1c…e2',
    },
  ];
  static override args = { file: Args.string({ required: true, ignoreStdin: true, description: 'The draft' }) };
  static override flags = {
    key: Flags.string({ required: true, helpValue: 'FILE', summary: "Secret key of the root's" }),
    'password-file': Flags.string({
      helpValue: 'FILE',
      summary: "Read the key's password from a file's first line (-: standard input)",
    }),
    root: Flags.string({ helpValue: 'HEX', summary: 'Fingerprint of the root that is in force' }),
    head: Flags.string({ helpValue: 'VERSION:DIGEST', summary: 'The version that is in force, as a node shows it' }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessTrustSign);
    requireFingerprint(flags.root);
    requireHead(flags.head);
    if (args.file === '-')
      throw new AegisError('cli.usage', 'The signature is added to the file of the draft: name one.');
    const draft = await readDraft(args.file);
    const checked = await checkedDraft(draft, flags.root);
    if (!(await followsItsBefore(draft, checked)))
      throw new AegisError(
        'cli.usage',
        `${args.file} does not follow from the version that it says: make another draft.`,
      );
    const note = await startsAtNewest(this.around, draft, checked, flags.head);
    const changes = await changesText(checked.before, checked.after);
    const rows = [`root fingerprint ${checked.rootFingerprint}`, ...changes];
    if (!flags.json) await this.print(`${rows.join('\n')}\n`);
    await confirmed(this.around.output, flags.yes, 'Sign this?');
    const key = await rootKeyFrom(flags.key, flags['password-file'], this.around.output);
    const signed = await sign(draft, key);
    note();
    replaceDraft(args.file, signed);
    const state = await signaturesOf(signed);
    if (flags.json)
      return await this.printJson({ file: args.file, root_fingerprint: checked.rootFingerprint, changes, ...state });
    await this.note(`${missing(state)}.`);
  }
}

export class AccessTrustPublish extends ServerCommand {
  static override description =
    'Puts a draft in force that enough keys of the root have signed. The server takes nothing else, and nodes check it again. The same again changes nothing.';
  static override examples = [
    { description: 'What came back signed', command: 'aegis access trust publish change.json' },
    {
      description: 'At a server of your own on this machine',
      command: 'aegis access trust publish change.json --server http://127.0.0.1:8080',
    },
  ];
  static override args = { file: Args.string({ required: true, ignoreStdin: true, description: 'The signed draft' }) };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(AccessTrustPublish);
    const draft = await readDraft(args.file);
    const signed = await signaturesOf(draft);
    if (!signed.enough)
      throw new AegisError(
        'access.root_key_absent',
        `${args.file}: ${missing(signed)}. Have it signed with 'aegis access trust sign'.`,
      );
    await this.withApi(flags, async (api) => {
      const published = await api.call(routes.publishTrust, { body: { trust_bundle: envelopeOf(draft) } });
      if (flags.json) return await this.printJson(published);
      await this.print(
        facts([
          ['version', String(published.trust_version)],
          ['expires', plainText(published.expires_at)],
          ['root fingerprint', published.root_fingerprint],
          ['head', published.head],
        ]),
      );
    });
  }
}
