import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { attachmentsText, measuredNote, measuredText } from '../artifacts/attachments-text.ts';
import type { KernelSight } from '../artifacts/kernel-sight.ts';
import { mapContentsText, mapListText } from '../artifacts/map-text.ts';
import { AegisCommand } from '../base-command.ts';
import { localFlags } from '../daemon-flags.ts';
import { EXIT } from '../following/exit-status.ts';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { nodeFolder } from '../node-folder.ts';
import { plainText } from '../ui/plain-text.ts';

/** What this machine's kernel holds of artifacts: pins below bpffs, read without a server and without the daemon's help. */

const artifactName = Args.string({ required: true, ignoreStdin: true, description: 'The name of the artifact' });

export class DaemonAttachments extends AegisCommand {
  static override description =
    `Shows the artifacts of this machine as its daemon knows them (what is wished, what runs) beside what the kernel itself holds: each pinned link, its program and how often that has run. Works without the server, and without the daemon too. Needs root's rights.

With --measure the kernel counts runs and run time for so many seconds (which costs every eBPF program of the machine some 20 ns a run), and what it counted is shown; Ctrl-C ends that sooner. A program that is attached at several hooks has the same figures at each: those of all its runs.`;
  static override examples = [
    { description: 'As a table', command: 'aegis daemon attachments' },
    { description: 'How often each program runs, and for how long', command: 'aegis daemon attachments --measure 5' },
    {
      description: 'The ids that bpftool shows',
      command: "aegis daemon attachments --json | jq '.artifacts[].links[].program_id'",
    },
  ];
  static override args = { artifact: Args.string({ ignoreStdin: true, description: 'Only this artifact' }) };
  static override flags = {
    measure: Flags.integer({ min: 1, max: 3600, helpValue: 'SEC', summary: 'Count runs for so long, 1 to 3600' }),
    ...localFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(DaemonAttachments);
    const node = await nodeFolder(flags, this.around.env);
    const { kernelSight } = await import('../artifacts/kernel-sight.ts');
    const sight = kernelSight(node);
    if (flags.measure !== undefined) return await this.measure(sight, args.artifact, flags.measure, flags.json);
    const seen = await sight.attachments(args.artifact);
    await (flags.json ? this.printJson(seen) : this.print(attachmentsText(seen, this.width)));
    if (!flags.json && seen.artifacts.length === 0) await this.note('this node has no artifacts.');
    return undefined;
  }

  private async measure(
    sight: KernelSight,
    artifact: string | undefined,
    seconds: number,
    json: boolean,
  ): Promise<number> {
    return await untilInterrupted(async (signal) => {
      const seen = await sight.measure({
        artifact,
        pause: () => this.around.pause(seconds * 1000, signal),
        monotonic: () => performance.now(),
      });
      await (json ? this.printJson(seen) : this.print(measuredText(seen, this.width)));
      if (!json) await this.note(measuredNote(seen));
      return signal.aborted ? EXIT.interrupted : 0;
    });
  }
}

export class DaemonMaps extends AegisCommand {
  static override description =
    "Shows the maps of an artifact on this machine, or with NAME one map's contents, decoded by the types that stand in the program's BTF. Needs root's rights; neither server nor daemon has to run.";
  static override examples = [
    { description: 'Which maps there are', command: 'aegis daemon maps block-icmp' },
    { description: 'What one holds', command: 'aegis daemon maps block-icmp dropped --json' },
  ];
  static override args = {
    artifact: artifactName,
    map: Args.string({ ignoreStdin: true, description: 'The map (default: list them)' }),
  };
  static override flags = {
    limit: Flags.integer({
      min: 1,
      max: 1_000_000,
      default: 1000,
      helpValue: 'N',
      summary: 'At most this many entries',
    }),
    ...localFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(DaemonMaps);
    const node = await nodeFolder(flags, this.around.env);
    const { kernelSight } = await import('../artifacts/kernel-sight.ts');
    const sight = kernelSight(node);
    if (args.map === undefined) {
      const list = await sight.maps(args.artifact);
      return await (flags.json ? this.printJson(list) : this.print(mapListText(list, this.width)));
    }
    const contents = await sight.contents(args.artifact, args.map, flags.limit);
    if (flags.json) return await this.printJson(contents);
    await this.print(mapContentsText(contents, this.width));
    if (contents.truncated) await this.note(`only ${flags.limit} entries are shown; a larger --limit shows more.`);
    return undefined;
  }
}

export class DaemonEvents extends AegisCommand {
  static override description =
    "Streams what an artifact's programs write into a ring buffer on this machine: a line of JSON for each record, until Ctrl-C. A record goes to one reader: two that listen at the same time share them. Needs root's rights.";
  static override examples = [
    { description: 'As they come', command: 'aegis daemon events exec-watch' },
    { description: 'One of several ring buffers', command: 'aegis daemon events exec-watch --map events | head -n 10' },
  ];
  static override args = { artifact: artifactName };
  static override flags = {
    map: Flags.string({ helpValue: 'NAME', summary: 'The ring buffer (default: the only one)' }),
    ...localFlags,
  };

  async run(): Promise<number> {
    const { flags, args } = await this.parse(DaemonEvents);
    const node = await nodeFolder(flags, this.around.env);
    const { kernelSight } = await import('../artifacts/kernel-sight.ts');
    return await untilInterrupted(async (signal) => {
      for await (const { records, lost } of kernelSight(node).events(args.artifact, flags.map, signal)) {
        const { out, outIsTerminal } = this.around.output;
        const text = (record: unknown) => (outIsTerminal ? plainText(JSON.stringify(record)) : JSON.stringify(record));
        await out(records.map((record) => `${text(record)}\n`).join(''));
        if (lost > 0) await this.note(`${lost} records are lost: they came faster than they were read.`);
      }
      if (signal.aborted) return EXIT.interrupted;
      await this.note(`${args.artifact} was taken off this node.`);
      return 0;
    });
  }
}
