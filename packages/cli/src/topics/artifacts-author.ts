import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import { AegisCommand, ServerCommand, serverFlags } from '../base-command.ts';
import { readPassword } from '../ui/ask-password.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { byteCount } from '../ui/time.ts';

/** What an artifact's author does on his own machine; only `verify` may ask a server, for the keys that it trusts. */

const bundleArg = Args.string({ required: true, ignoreStdin: true, description: 'A bundle, NAME-VERSION.tar.zst' });

export class ArtifactsInit extends AegisCommand {
  static override description =
    `Makes a folder with a small documented C program, its manifest aegis.json, a Makefile and a README that says how to go on. Nothing that is there is written over.

Kinds: tc and cgroup_skb drop the ICMP that goes to an address, xdp the ICMP that comes from one, tracepoint tells of every program that is started.`;
  static override examples = [
    {
      description: 'A first artifact, ready to be built',
      command: 'aegis artifacts init block-icmp && make -C block-icmp',
    },
    {
      description: 'One that tells of events',
      command: 'aegis artifacts init exec-watch --kind tracepoint --dir ./src/exec',
    },
  ];
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: "The artifact's name" }),
  };
  static override flags = {
    dir: Flags.string({ helpValue: 'DIR', summary: 'The folder (default: ./NAME)' }),
    kind: Flags.option({
      options: ['tc', 'xdp', 'cgroup_skb', 'tracepoint'] as const,
      default: 'tc' as const,
      summary: 'Which program',
    })(),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsInit);
    const { initFolder } = await import('../artifacts/init.ts');
    const folder = flags.dir ?? args.name;
    const files = initFolder(args.name, folder, flags.kind);
    if (flags.json) return await this.printJson({ name: args.name, kind: flags.kind, folder, files });
    await this.print(files.map((file) => `${folder}/${file}\n`).join(''));
    await this.note(
      `made. Build it with 'make -C ${plainText(folder)}', then 'aegis artifacts pack ${plainText(folder)}'.`,
    );
  }
}

export class ArtifactsPack extends AegisCommand {
  static override description =
    `Makes the bundle NAME-VERSION.tar.zst of aegis.json and the objects that it names. The same input gives the same bytes, on any machine and at any time. Programs, maps and constants of the manifest are looked for in the objects, where the eBPF loader is built.`;
  static override examples = [
    { description: 'From this folder', command: 'aegis artifacts pack' },
    {
      description: 'Another folder, to a file of that name',
      command: 'aegis artifacts pack ./block-icmp -o out/block-icmp.tar.zst',
    },
  ];
  static override args = {
    folder: Args.string({ default: '.', ignoreStdin: true, description: 'Folder with aegis.json, or that file' }),
  };
  static override flags = {
    output: Flags.string({ char: 'o', helpValue: 'FILE', summary: 'Write it there (default: ./NAME-VERSION.tar.zst)' }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsPack);
    const { packFolder } = await import('../artifacts/pack.ts');
    const packed = await packFolder(args.folder, flags.output);
    if (flags.json) return await this.printJson(packed);
    await this.print(
      facts([
        ['file', packed.file],
        ['artifact', `${packed.name}@${packed.version}`],
        ['sha256', packed.sha256],
        ['size', byteCount(packed.size)],
      ]),
    );
    if (!packed.checked)
      await this.note(
        'the eBPF loader is not built here, so the objects were not looked into; a node will. See bin/setup.',
      );
  }
}

const KEYS = 'KEY';

export class ArtifactsSign extends AegisCommand {
  static override description =
    `Writes FILE.minisig: a signature as minisign makes it, over the bundle's bytes, with name, version and time in its trusted comment. The key is one of 'aegis access keys create' or of 'minisign -G'. A password is asked for, or read from --password-file.

With --vault the signature comes from a key (type ed25519) of a Vault server's transit engine. Its address and token come from VAULT_ADDR and VAULT_TOKEN, and VAULT_NAMESPACE, VAULT_CACERT and VAULT_CLIENT_TIMEOUT count too.`;
  static override examples = [
    { description: 'With a key file', command: 'aegis artifacts sign block-icmp-1.0.0.tar.zst --key release.key' },
    {
      description: 'In a pipeline, through Vault',
      command: 'VAULT_ADDR=https://vault:8200 aegis artifacts sign block-icmp-1.0.0.tar.zst --vault artifacts',
    },
  ];
  static override args = { file: bundleArg };
  static override flags = {
    key: Flags.string({ helpValue: 'FILE', summary: "Secret key file (minisign's .key)", helpGroup: KEYS }),
    'password-file': Flags.string({
      helpValue: 'FILE',
      summary: "Read the key's password from a file's first line (-: standard input)",
      helpGroup: KEYS,
    }),
    vault: Flags.string({
      helpValue: 'NAME',
      summary: "Sign with this key of Vault's transit engine",
      helpGroup: KEYS,
    }),
    'vault-mount': Flags.string({
      default: 'transit',
      helpValue: 'PATH',
      summary: 'Where the transit engine is mounted',
      helpGroup: KEYS,
    }),
    output: Flags.string({
      char: 'o',
      helpValue: 'FILE',
      summary: 'Write the signature there (default: FILE.minisig)',
    }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsSign);
    const { key, vault, output } = flags;
    if ((key === undefined) === (vault === undefined))
      throw new AegisError('cli.usage', 'Name the key that signs: --key FILE.key, or --vault NAME.');
    const { signWithKey, signWithVault } = await import('../artifacts/sign.ts');
    const ask = () => readPassword(this.around.output, flags['password-file'], `Password of ${plainText(key ?? '')}:`);
    const signed =
      key === undefined
        ? await signWithVault(args.file, { key: vault ?? '', mount: flags['vault-mount'] }, output, this.around.env)
        : await signWithKey(args.file, key, output, { password: ask, now: this.around.now() });
    if (flags.json) return await this.printJson(signed);
    await this.print(
      facts([
        ['signature', signed.signature],
        ['artifact', `${signed.name}@${signed.version}`],
        ['sha256', signed.sha256],
        ['key', signed.minisign_id ?? `${vault} of Vault's ${flags['vault-mount']}`],
        ['trusted comment', signed.trusted_comment],
      ]),
    );
  }
}

export class ArtifactsVerify extends ServerCommand {
  static override description =
    `Checks a bundle and its signature: that the bundle is whole and has the one form that bundles have, that the signature is over these bytes, this name and this version, and that a trusted key made it. Trusted are the keys of the server's trust bundle; with --public-key that key alone, and no server is asked.`;
  static override examples = [
    {
      description: 'Against the keys that the server trusts',
      command: 'aegis artifacts verify block-icmp-1.0.0.tar.zst',
    },
    {
      description: 'Against one key, without a server',
      command: 'aegis artifacts verify block-icmp-1.0.0.tar.zst --public-key release.pub',
    },
  ];
  static override args = { file: bundleArg };
  static override flags = {
    signature: Flags.string({ helpValue: 'FILE', summary: 'The signature (default: FILE.minisig)' }),
    'public-key': Flags.string({ helpValue: 'FILE', summary: "Trust this key alone (minisign's .pub)" }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsVerify);
    const { readPublicKey, verifyBundleFile } = await import('../artifacts/verify.ts');
    const keyFile = flags['public-key'];
    const verified =
      keyFile !== undefined
        ? await verifyBundleFile(args.file, flags.signature, readPublicKey(keyFile))
        : await this.withApi(flags, async (api) => {
            const { trust_bundle, root_fingerprint } = await api.call(routes.showTrust);
            const keys = { trustBundle: trust_bundle, rootFingerprint: root_fingerprint, now: this.around.now() };
            return await verifyBundleFile(args.file, flags.signature, keys);
          });
    if (flags.json) return await this.printJson({ file: args.file, valid: true, ...verified });
    await this.print(
      facts([
        ['artifact', `${verified.name}@${verified.version}`],
        ['sha256', verified.sha256],
        ['size', byteCount(verified.size)],
        ['signed by', `${verified.signer.name} (${verified.signer.keyid.slice(0, 16)})`],
      ]),
    );
  }
}

export class ArtifactsInspect extends AegisCommand {
  static override description =
    'Shows what is in a bundle or in one eBPF object: programs and where they are attached, maps, globals, sizes, and what it needs of a kernel. Nothing is loaded.';
  static override examples = [
    { description: 'A bundle', command: 'aegis artifacts inspect block-icmp-1.0.0.tar.zst' },
    { description: 'An object, as the compiler made it', command: 'aegis artifacts inspect block_icmp.bpf.o' },
  ];
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'A bundle (.tar.zst) or an object (.o)' }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsInspect);
    const { inspectFile } = await import('../artifacts/inspect.ts');
    const { inspectionText } = await import('../artifacts/inspection-text.ts');
    const inspection = await inspectFile(args.file);
    await (flags.json ? this.printJson(inspection) : this.print(inspectionText(inspection, this.width)));
    if (inspection.note !== null) await this.note(inspection.note);
  }
}
