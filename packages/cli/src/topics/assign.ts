import type { Artifact, NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { assignmentRows, settingsText, waitFlags, waitReport } from '../artifacts/assignment-report.ts';
import { artifactNamed } from '../artifacts/reference.ts';
import { statusOf } from '../artifacts/status-rows.ts';
import type { Wish } from '../artifacts/waiting.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { keyFlags, type OperatorSigner, operatorSigner } from '../signing/operator-key.ts';
import { signWishesOf } from '../signing/wishes.ts';
import { plainText } from '../ui/plain-text.ts';
import { table } from '../ui/table.ts';

export class Assign extends ServerCommand {
  static override description =
    `Makes nodes run an artifact: NODE is a name, a uid or a selector (see 'aegis submit --help'). Each node fetches it, verifies it, loads it and reports; a node that is offline does so when it comes back. Without a version it is the newest; who signs says one.

Another version of the same name takes the place of the one that runs there, without a gap; an older one is the way back. When the new one cannot be loaded or attached, the old one stays and the status says why. Constants that are not named with --set have the manifest's values, also when another assignment had set them ('aegis artifacts show ARTIFACT' lists them).

With --only these nodes become the whole set of this version, in one transaction: it is taken off every other node that has it. Nodes with another version keep theirs.

Exit code with --wait: 0 when every node runs it, 1 when one failed or the time was over.`;

  static override usage = ['assign [FLAGS] ARTIFACT[@VERSION] NODE...'];
  static override examples = [
    { description: 'The newest version on two nodes', command: 'aegis assign block-icmp web-1 web-2' },
    {
      description: 'Another address there, and wait until it holds',
      command: "aegis assign --set target_ip=192.0.2.9 --wait block-icmp 'site=fra'",
    },
    { description: 'Back to an older version', command: 'aegis assign block-icmp@1.0.0 web-1' },
    { description: 'What would change', command: 'aegis assign --dry-run block-icmp all' },
  ];
  static override strict = false;
  static override flags = {
    set: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'NAME=VALUE',
      summary: 'Set a constant that the artifact declares settable; repeatable',
    }),
    only: Flags.boolean({ summary: 'And take this version off every other node' }),
    'dry-run': Flags.boolean({ summary: 'Only show which nodes it would reach' }),
    ...waitFlags,
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, argv } = await this.parse(Assign);
    const [artifact, ...targets] = argv.map(String);
    if (artifact === undefined || targets.length === 0)
      throw new AegisError('cli.usage', 'Name an artifact and at least one node: aegis assign ARTIFACT NODE…');
    const constants = constantsOf(flags.set ?? []);
    const dry_run = flags['dry-run'];
    return await this.withApi(flags, async (api) => {
      const signer = dry_run ? null : await operatorSigner(api, flags, this.around);
      if (signer) refuseUnsaid(artifact, { version: true });
      if (flags.only) return await this.assignOnly(api, artifact, targets, constants, flags, signer);
      const body = { artifact, targets, dry_run, ...(constants ? { constants } : {}) };
      const answer = await api.call(routes.assign, { body });
      if (dry_run) {
        if (flags.json) return await this.printJson({ dry_run: true, ...answer });
        await this.print(assignmentRows(answer.assignments, this.width));
        return await this.note(`dry run: nothing was changed on ${nodesText(answer.assignments.length)}.`).then(
          nothing,
        );
      }
      const uids = answer.assignments.map(({ host_id }) => host_id);
      if (answer.artifact) await this.signed(api, signer, artifact, answer.artifact, targets, uids, constants);
      const wishes = answer.assignments.map(
        ({ host_id, host, name, generation, version }): Wish => ({
          node_uid: host_id,
          node: host,
          name,
          generation,
          version,
          signed: signer !== null,
        }),
      );
      if (flags.wait) return await waitReport(api, wishes, flags, this.around, this.width, answer);
      if (flags.json) return await this.printJson(answer);
      await this.print(assignmentRows(answer.assignments, this.width));
      return undefined;
    });
  }

  /** For nodes that obey operators alone: the same under the operator's own signature, held against the bundle first. */
  private async signed(
    api: Api,
    signer: OperatorSigner | null,
    reference: string,
    artifact: Artifact,
    targets: readonly string[],
    nodeUids: readonly string[],
    constants: Record<string, string> | undefined,
  ): Promise<void> {
    if (signer === null) return;
    const [name, version] = reference.split('@');
    if (name !== artifact.name)
      throw new AegisError(
        'access.untrusted',
        `The server calls '${plainText(reference)}' ${plainText(`${artifact.name}@${artifact.version}`)}: that is not signed. Find out who answers there.`,
      );
    if (version !== artifact.version)
      throw new AegisError(
        'access.untrusted',
        `The server answers with ${plainText(artifact.version)}: that is not signed.`,
      );
    const { isMeantAssignment } = await import('../artifacts/meant.ts');
    const isMeant = await isMeantAssignment(api, artifact, constants ?? {});
    const what = { kind: 'artifacts.assign', objectId: artifact.name, targets, isMeant } as const;
    await signWishesOf(api, signer, nodeUids, what, this.around.now());
  }

  /** The nodes are looked up by a dry run; then one transaction replaces the set. */
  private async assignOnly(
    api: Api,
    reference: string,
    targets: string[],
    constants: Record<string, string> | undefined,
    flags: { json: boolean; wait: boolean; timeout: string; 'dry-run': boolean },
    signer: OperatorSigner | null,
  ): Promise<number | undefined> {
    const settings = constants ? { constants } : {};
    const looked = await api.call(routes.assign, {
      body: { artifact: reference, targets, dry_run: true, ...settings },
    });
    const artifact: Artifact = looked.artifact ?? (await artifactNamed(api, reference));
    const hosts = [...new Set(looked.assignments.map(({ host_id }) => host_id))];
    if (flags['dry-run']) {
      const removed = (await statusOf(api, { name: artifact.name })).filter(
        ({ node_uid, version }) => version === artifact.version && !hosts.includes(node_uid),
      );
      if (flags.json)
        return await this.printJson({ dry_run: true, ...looked, removed: removed.map(({ node }) => node) });
      await this.print(assignmentRows(looked.assignments, this.width));
      return await this.note(
        removed.length === 0
          ? 'dry run: nothing was changed, and no other node has it.'
          : `dry run: nothing was changed; it would be taken off ${removed.map(({ node }) => plainText(node)).join(', ')}.`,
      ).then(nothing);
    }
    const answer = await api.call(routes.putHosts, {
      params: { artifact_id: artifact.artifact_id },
      body: { hosts, ...settings },
    });
    await this.signed(api, signer, reference, artifact, targets, hosts, constants);
    if (signer && answer.removed.length > 0)
      await this.note(
        `not signed: where it was taken off (${answer.removed.map(plainText).join(', ')}); nodes there that obey operators alone keep it until 'aegis unassign' is signed.`,
      );
    if (flags.wait) {
      const items = await statusOf(api, { name: artifact.name });
      return await waitReport(api, items.map(wishOf), flags, this.around, this.width, answer);
    }
    if (flags.json) return await this.printJson(answer);
    const rows = (['added', 'unchanged', 'removed'] as const).flatMap((change) =>
      answer[change].map((host) => [host, change]),
    );
    await this.print(table(['NODE', settingsText(artifact)], rows, this.width));
    return undefined;
  }
}

/** What an id stands for, and which version is the newest, only the server says: an operator who signs says it himself.
 *  @throws AegisError cli.usage */
export const refuseUnsaid = (reference: string, { version }: { version: boolean }): void => {
  const form = version ? 'NAME@VERSION' : 'NAME or NAME@VERSION';
  if (isUuid(reference))
    throw new AegisError(
      'cli.usage',
      `With a key, say the artifact as ${form}: what an id stands for, the server alone would say. See 'aegis artifacts list'; --unsigned leaves the signature away.`,
    );
  if (version && !reference.includes('@'))
    throw new AegisError(
      'cli.usage',
      `With a key, say the version, as ${form}: which one is the newest, the server alone would say. See 'aegis artifacts list'; --unsigned leaves the signature away.`,
    );
};

const nothing = () => undefined;
const nodesText = (count: number): string => (count === 1 ? '1 node' : `${count} nodes`);

/** What a node is wished to do now. */
export const wishOf = ({ node_uid, node, name, generation, version }: NodeArtifact): Wish => ({
  node_uid,
  node,
  name,
  generation,
  version,
});

/** Values stay text: their types stand in the artifact's manifest, and the server checks them by it. */
const constantsOf = (pairs: readonly string[]): Record<string, string> | undefined => {
  if (pairs.length === 0) return undefined;
  const constants: Record<string, string> = {};
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    const name = pair.slice(0, at);
    if (at < 1) throw new AegisError('cli.usage', `--set ${plainText(pair)}: write NAME=VALUE.`);
    if (Object.hasOwn(constants, name)) throw new AegisError('cli.usage', `--set gives '${plainText(name)}' twice.`);
    constants[name] = pair.slice(at + 1);
  }
  return constants;
};
