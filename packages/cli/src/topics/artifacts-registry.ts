import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { artifactNamed } from '../artifacts/reference.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { ago, byteCount } from '../ui/time.ts';

export const artifactArg = Args.string({
  required: true,
  ignoreStdin: true,
  description: 'NAME (its newest version), NAME@VERSION, or an id',
});

const signerText = ({ signed, signer }: Artifact): string => {
  if (!signed) return 'unsigned';
  if (signer === null) return 'signed';
  return signer.state === 'active' ? signer.name : `${signer.name} (${signer.state})`;
};

export class ArtifactsPush extends ServerCommand {
  static override description =
    `Publishes a bundle with its signature. The server reads bundle and manifest as strictly as a node does and checks the signature against the keys that the fleet trusts. A version that is published stays what it is: the same bytes again are fine, other bytes are refused. Only a server under --dev takes a bundle without a signature, and no node loads it.`;
  static override examples = [
    {
      description: 'With block-icmp-1.0.0.tar.zst.minisig beside it',
      command: 'aegis artifacts push block-icmp-1.0.0.tar.zst',
    },
    {
      description: 'The signature from elsewhere',
      command: 'aegis artifacts push block-icmp-1.0.0.tar.zst --signature release.minisig',
    },
  ];
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'A bundle, NAME-VERSION.tar.zst' }),
  };
  static override flags = {
    signature: Flags.string({ helpValue: 'FILE', summary: 'The signature (default: FILE.minisig, where it is there)' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsPush);
    const { readUpload } = await import('../artifacts/exchange.ts');
    const upload = await readUpload(args.file, flags.signature);
    await this.withApi(flags, async (api) => {
      const artifact = await api.call(routes.createArtifact, { body: upload });
      if (flags.json) return await this.printJson(artifact);
      await this.print(
        facts([
          ['artifact', `${artifact.name}@${artifact.version}`],
          ['id', artifact.artifact_id],
          ['sha256', artifact.checksum],
          ['size', byteCount(artifact.size)],
          ['signed by', signerText(artifact)],
        ]),
      );
      if (!artifact.signed) await this.note('it bears no signature: no node loads it.');
    });
  }
}

export class ArtifactsPull extends ServerCommand {
  static override description =
    `Fetches a bundle and its signature, checks the digest, and checks the signature against the keys that the server says the fleet trusts (with --public-key against that key alone, whatever the server says), before anything is written: the bundle to NAME-VERSION.tar.zst, the signature beside it.`;
  static override examples = [
    { description: 'The newest version', command: 'aegis artifacts pull block-icmp' },
    {
      description: 'An older one, to a file of that name',
      command: 'aegis artifacts pull block-icmp@1.0.0 -o old.tar.zst',
    },
  ];
  static override args = { artifact: artifactArg };
  static override flags = {
    output: Flags.string({ char: 'o', helpValue: 'FILE', summary: 'Write it there (default: ./NAME-VERSION.tar.zst)' }),
    'public-key': Flags.string({ helpValue: 'FILE', summary: "Trust this key alone (minisign's .pub)" }),
    'no-verify': Flags.boolean({ summary: 'Do not check who signed it', exclusive: ['public-key'] }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsPull);
    const { downloaded, savePulled } = await import('../artifacts/exchange.ts');
    const { readPublicKey, verifyBytes } = await import('../artifacts/verify.ts');
    await this.withApi(flags, async (api) => {
      const artifact = await artifactNamed(api, args.artifact);
      const bytes = await downloaded(api, artifact);
      const keyFile = flags['public-key'];
      const signer = flags['no-verify']
        ? null
        : (await verifyBytes(bytes, artifact.signature, keyFile ? readPublicKey(keyFile) : await this.trustedKeys(api)))
            .signer;
      const saved = savePulled(artifact, bytes, flags.output);
      if (flags.json) return await this.printJson({ ...saved, artifact, signer });
      await this.print(
        facts([
          ['file', saved.file],
          ['signature', saved.signature],
          ['artifact', `${artifact.name}@${artifact.version}`],
          ['sha256', artifact.checksum],
          ['signed by', signer ? `${signer.name} (${signer.keyid.slice(0, 16)})` : 'not checked'],
        ]),
      );
    });
  }

  private async trustedKeys(api: Api) {
    const { trust_bundle, root_fingerprint } = await api.call(routes.showTrust);
    return { trustBundle: trust_bundle, rootFingerprint: root_fingerprint, now: this.around.now() };
  }
}

export class ArtifactsList extends ServerCommand {
  static override description = 'Lists published artifacts, the newest first.';
  static override examples = [
    { description: 'All of them', command: 'aegis artifacts list' },
    { description: "One artifact's versions", command: 'aegis artifacts list --name block-icmp' },
    { description: 'Their names alone', command: "aegis artifacts list --json | jq -r '.artifacts[].name' | sort -u" },
  ];
  static override flags = {
    name: Flags.string({ helpValue: 'NAME', summary: 'Only versions of this artifact' }),
    tag: Flags.string({ helpValue: 'TAG', summary: 'Only artifacts with this tag' }),
    type: Flags.option({
      options: ['program', 'policy', 'probe'] as const,
      summary: 'Only artifacts of this type',
    })(),
    architecture: Flags.option({
      options: ['x86_64', 'aarch64', 'any'] as const,
      summary: 'Only artifacts for this architecture',
    })(),
    limit: Flags.integer({ min: 1, helpValue: 'N', summary: 'At most this many (default: all)' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ArtifactsList);
    const { name, tag, type, architecture } = flags;
    const wanted = flags.limit ?? Number.POSITIVE_INFINITY;
    const query = { name, tag, type, architecture, limit: Math.min(1000, wanted) };
    await this.withApi(flags, async (api) => {
      const artifacts: Artifact[] = [];
      let total = 0;
      const pages = everyPage((cursor) => api.call(routes.listArtifacts, { query: { ...query, cursor } }));
      for await (const page of pages) {
        artifacts.push(...page.artifacts);
        total = page.total;
        if (artifacts.length >= wanted) break;
      }
      artifacts.splice(wanted);
      if (flags.json) return await this.printJson({ artifacts, total });
      const now = this.around.now();
      const rows = artifacts.map((one) => [
        one.name,
        one.version,
        one.type,
        one.architecture,
        byteCount(one.size),
        signerText(one),
        String(one.assigned),
        ago(one.created_at, now),
        one.description,
      ]);
      const head = ['NAME', 'VERSION', 'TYPE', 'ARCH', 'SIZE', 'SIGNED BY', 'NODES', 'PUBLISHED', 'DESCRIPTION'];
      await this.print(table(head, rows, this.width));
      if (total > artifacts.length) await this.note(`${artifacts.length} of ${total}; a larger --limit shows more.`);
      if (total === 0) await this.note("no artifact matches. 'aegis artifacts init NAME' begins one.");
    });
  }
}

export class ArtifactsShow extends ServerCommand {
  static override description =
    'Shows one artifact: what it is, who published and signed it, its programs and where they are attached, its constants and maps.';
  static override examples = [
    { description: 'The newest version', command: 'aegis artifacts show block-icmp' },
    {
      description: 'What an assignment may set',
      command: "aegis artifacts show block-icmp --json | jq '.manifest.constants[] | select(.settable)'",
    },
  ];
  static override args = { artifact: artifactArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsShow);
    await this.withApi(flags, async (api) => {
      const { artifact_id: id } = await artifactNamed(api, args.artifact);
      const artifact = await api.call(routes.showArtifact, { params: { id } });
      if (flags.json) return await this.printJson(artifact);
      const { artifactFacts } = await import('../artifacts/artifact-facts.ts');
      await this.print(artifactFacts(artifact, signerText(artifact), this.width));
    });
  }
}

export class ArtifactsDelete extends ServerCommand {
  static override description =
    'Removes one version that is assigned to no node. Its name and version stay taken: nothing else can ever be published as them.';
  static override examples = [
    { description: 'Asks first, on a terminal', command: 'aegis artifacts delete block-icmp@1.0.0' },
    { description: 'In a script', command: 'aegis artifacts delete block-icmp@1.0.0 --yes' },
  ];
  static override args = {
    artifact: Args.string({ required: true, ignoreStdin: true, description: 'NAME@VERSION, or an id' }),
  };
  static override flags = { yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }), ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ArtifactsDelete);
    const { isUuid } = await import('@aegis/protocol/ids');
    if (!args.artifact.includes('@') && !isUuid(args.artifact))
      throw new AegisError(
        'cli.usage',
        `Name the version that goes: ${plainText(args.artifact)}@VERSION. See 'aegis artifacts list --name ${plainText(args.artifact)}'.`,
      );
    await confirmed(this.around.output, flags.yes, `Delete ${plainText(args.artifact)} for good?`);
    await this.withApi(flags, async (api) => {
      const { artifact_id: id } = await artifactNamed(api, args.artifact);
      const artifact = await api.call(routes.deleteArtifact, { params: { id } });
      await (flags.json
        ? this.printJson(artifact)
        : this.print(`${plainText(artifact.name)}@${plainText(artifact.version)} is deleted\n`));
    });
  }
}
