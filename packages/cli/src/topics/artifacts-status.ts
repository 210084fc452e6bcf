import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { waitFlags, waitReport } from '../artifacts/assignment-report.ts';
import { referenceOf } from '../artifacts/reference.ts';
import { statusOf, statusTable } from '../artifacts/status-rows.ts';
import { watchStatus } from '../artifacts/watch.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { EXIT } from '../following/exit-status.ts';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { plainText } from '../ui/plain-text.ts';
import { wishOf } from './assign.ts';

export class ArtifactsStatus extends ServerCommand {
  static override description =
    `Shows each artifact on each node: the version that is wished there, the state that the node last reported (pending, verified, loaded, attached, failed; detached once it is off), how many of its programs are attached, how often the node found them otherwise than it had left them and put them right, how often they ran (where the node counts that: its setting bpf_statistics), and the reason where something failed. A narrow terminal gets fewer columns, a pipe all.

With --watch it goes on until Ctrl-C: on a terminal one screen, on a pipe a line for each change (with --json NDJSON). With --wait it returns when nothing is under way any more.

Exit code with --wait: 0 when all is as wished, 1 when something failed or the time was over.`;
  static override examples = [
    { description: 'Everything', command: 'aegis artifacts status' },
    { description: 'Live, one artifact', command: 'aegis artifacts status block-icmp --watch' },
    {
      description: "A failed load's whole verifier log",
      command: 'aegis artifacts status block-icmp --node web-1 --json | jq -r .items[].report.verifier_log',
    },
    { description: 'In a script, after an upgrade', command: 'aegis artifacts status block-icmp --wait --timeout 5m' },
  ];
  static override args = {
    artifact: Args.string({ ignoreStdin: true, description: 'NAME or NAME@VERSION (default: all)' }),
  };
  static override flags = {
    node: Flags.string({ helpValue: 'NODE', summary: 'Only on this node' }),
    watch: Flags.boolean({ char: 'w', summary: 'Go on until Ctrl-C', exclusive: ['wait'] }),
    ...waitFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(ArtifactsStatus);
    const { name, version } = args.artifact === undefined ? {} : referenceOf(args.artifact);
    return await this.withApi(flags, async (api) => {
      const ask = async (): Promise<NodeArtifact[]> => {
        const items = await statusOf(api, { name, node: flags.node });
        return version === undefined
          ? items
          : items.filter((item) => (item.version ?? item.report?.version) === version);
      };
      if (flags.watch) return await this.watch(ask, flags.json);
      const items = await ask();
      if (flags.wait) {
        if (items.length === 0) throw nothingThere(args.artifact, flags.node);
        return await waitReport(api, items.map(wishOf), flags, this.around, this.width);
      }
      if (flags.json) return await this.printJson({ items });
      await this.print(statusTable(items, this.width));
      if (items.length === 0) await this.note(nothingThere(args.artifact, flags.node).message);
      return undefined;
    });
  }

  private async watch(ask: () => Promise<NodeArtifact[]>, json: boolean): Promise<number> {
    return await untilInterrupted(async (signal) => {
      await watchStatus({ json, around: this.around, signal, ask, say: (text) => this.note(text) });
      return EXIT.interrupted;
    });
  }
}

const nothingThere = (artifact: string | undefined, node: string | undefined): AegisError => {
  const what = artifact === undefined ? 'nothing' : plainText(artifact);
  const where = node === undefined ? 'any node' : plainText(node);
  const said = artifact === undefined ? `nothing is assigned to ${where}` : `${what} is not assigned to ${where}`;
  return new AegisError('artifacts.not_assigned', `${said}. 'aegis assign' does it.`);
};
