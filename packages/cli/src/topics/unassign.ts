import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { waitFlags, waitReport } from '../artifacts/assignment-report.ts';
import type { Wish } from '../artifacts/waiting.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { keyFlags, type OperatorSigner, operatorSigner } from '../signing/operator-key.ts';
import { signWishesOf } from '../signing/wishes.ts';
import { table } from '../ui/table.ts';
import { refuseUnsaid } from './assign.ts';

export class Unassign extends ServerCommand {
  static override description =
    `Takes an artifact off nodes: its programs are detached, its maps and pins removed. NODE is a name, a uid or a selector; a node that is offline does so when it comes back. With a version only nodes that are to run that one are meant.

Exit code with --wait: 0 when it is off everywhere, 1 when the time was over.`;

  static override usage = ['unassign [FLAGS] ARTIFACT[@VERSION] NODE...'];
  static override examples = [
    { description: 'Off one node, and wait for it', command: 'aegis unassign --wait block-icmp web-1' },
    { description: 'Off every node', command: 'aegis unassign block-icmp all' },
  ];
  static override strict = false;
  static override flags = {
    'dry-run': Flags.boolean({ summary: 'Only show which nodes it would reach' }),
    ...waitFlags,
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, argv } = await this.parse(Unassign);
    const [artifact, ...targets] = argv.map(String);
    if (artifact === undefined || targets.length === 0)
      throw new AegisError('cli.usage', 'Name an artifact and at least one node: aegis unassign ARTIFACT NODE…');
    const dry_run = flags['dry-run'];
    return await this.withApi(flags, async (api) => {
      const signer = dry_run ? null : await operatorSigner(api, flags, this.around);
      if (signer) refuseUnsaid(artifact, { version: false });
      const answer = await api.call(routes.unassign, { body: { artifact, targets, dry_run } });
      const { assignments } = answer;
      if (signer) await this.signed(api, signer, artifact, targets, assignments);
      if (flags.wait && !dry_run) {
        const wishes = assignments.map(
          ({ host_id, host, name, generation }): Wish => ({
            node_uid: host_id,
            node: host,
            name,
            generation,
            version: null,
            signed: signer !== null,
          }),
        );
        return await waitReport(api, wishes, flags, this.around, this.width, answer);
      }
      if (flags.json) return await this.printJson(dry_run ? { dry_run: true, ...answer } : answer);
      const rows = assignments.map(({ host, name, version, previous_version, changed }) => [
        host,
        `${name}@${previous_version ?? version}`,
        changed ? 'taken off' : 'unchanged',
      ]);
      await this.print(table(['NODE', 'ARTIFACT', 'CHANGE'], rows, this.width));
      if (dry_run) await this.note('dry run: nothing was changed.');
      return undefined;
    });
  }

  /** A tombstone says nothing but the name, which is the operator's own word. */
  private async signed(
    api: Api,
    signer: OperatorSigner,
    reference: string,
    targets: readonly string[],
    assignments: readonly { host_id: string; name: string }[],
  ): Promise<void> {
    const [name] = new Set(assignments.map((one) => one.name));
    if (name === undefined) return;
    const named = reference.split('@')[0];
    const isMeant = (body: unknown): boolean =>
      JSON.stringify(body) === JSON.stringify({ state: 'absent', name }) && named === name;
    const what = { kind: 'artifacts.assign', objectId: name, targets, isMeant } as const;
    await signWishesOf(
      api,
      signer,
      assignments.map(({ host_id }) => host_id),
      what,
      this.around.now(),
    );
  }
}
