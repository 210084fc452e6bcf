import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { type MeasuredAttachments, measuredNote, measuredText } from '../artifacts/attachments-text.ts';
import { type MapContents, type MapList, mapContentsText, mapListText } from '../artifacts/map-text.ts';
import { KEPT_BYTES, readRemotely } from '../artifacts/remote-read.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { EXIT } from '../following/exit-status.ts';
import { keyFlags } from '../signing/operator-key.ts';
import { plainLines } from '../ui/plain-text.ts';

/** Looking into an artifact's maps and ring buffers on a node and measuring its programs there, through the server. */

const artifactName = Args.string({ required: true, ignoreStdin: true, description: 'The name of the artifact' });
const nodeFlag = Flags.string({ required: true, char: 'n', helpValue: 'NODE', summary: 'The node, by name or uid' });
const MAX_ANSWER_BYTES = 256 * 1024 * 1024;
const DAY_SEC = 86_400;

export class ArtifactsMaps extends ServerCommand {
  static override description =
    `Shows the maps of an artifact on a node, or with NAME one map's contents, decoded by the types that stand in the program's BTF; bytes without a type are shown in hexadecimal. The node reads them at that moment.`;
  static override examples = [
    { description: 'Which maps there are', command: 'aegis artifacts maps block-icmp --node web-1' },
    { description: 'What one holds', command: 'aegis artifacts maps block-icmp dropped --node web-1' },
    {
      description: 'A counter, for a script',
      command: "aegis artifacts maps block-icmp dropped -n web-1 --json | jq '.entries[0].value.packets'",
    },
  ];
  static override args = {
    artifact: artifactName,
    map: Args.string({ ignoreStdin: true, description: 'The map (default: list them)' }),
  };
  static override flags = {
    node: nodeFlag,
    limit: Flags.integer({
      min: 1,
      max: 1_000_000,
      default: 1000,
      helpValue: 'N',
      summary: 'At most this many entries',
    }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(ArtifactsMaps);
    return await this.withApi(flags, async (api) => {
      const pieces: Buffer[] = [];
      const { artifact, map } = args;
      const finished = await readRemotely(
        api,
        {
          verb: 'artifacts.maps',
          args: { artifact, ...(map === undefined ? {} : { map, limit: flags.limit }), timeout_sec: 120 },
          node: flags.node,
          flags,
          mostBytes: MAX_ANSWER_BYTES,
          out: async (bytes) => void pieces.push(Buffer.from(bytes)),
          say: (text) => this.note(text),
        },
        this.around,
      );
      if (!finished) return EXIT.interrupted;
      const answer = JSON.parse(Buffer.concat(pieces).toString('utf8')) as MapList | MapContents;
      if (flags.json) return await this.printJson(answer);
      if ('maps' in answer) return await this.print(mapListText(answer, this.width));
      await this.print(mapContentsText(answer, this.width));
      if (answer.truncated) await this.note(`only ${flags.limit} entries are shown; a larger --limit shows more.`);
      return undefined;
    });
  }
}

export class ArtifactsEvents extends ServerCommand {
  static override description =
    `Streams what an artifact's programs write into a ring buffer on a node: a line of JSON for each record, decoded where the program's source names the record's type (docs/artifacts.md), until Ctrl-C. A record goes to one reader: two that listen at the same time share them.`;
  static override examples = [
    { description: 'As they come', command: 'aegis artifacts events exec-watch --node web-1' },
    {
      description: 'Ten of them',
      command: "aegis artifacts events exec-watch --node web-1 | head -n 10 | jq -r '.comm'",
    },
  ];
  static override args = { artifact: artifactName };
  static override flags = {
    node: nodeFlag,
    map: Flags.string({ helpValue: 'NAME', summary: 'The ring buffer (default: the only one)' }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(ArtifactsEvents);
    const { output } = this.around;
    return await this.withApi(flags, async (api) => {
      const map = flags.map === undefined ? {} : { map: flags.map };
      const finished = await readRemotely(
        api,
        {
          verb: 'artifacts.events',
          args: { artifact: args.artifact, ...map, timeout_sec: DAY_SEC, grace_sec: 2 },
          node: flags.node,
          flags,
          mostBytes: KEPT_BYTES / 2,
          // Names of processes stand in records, and a node is not believed: a terminal gets no sequences from there.
          out: output.outIsTerminal ? plainLines((text) => output.out(text)) : (bytes) => output.out(bytes),
          say: (text) => this.note(text),
        },
        this.around,
      );
      return finished ? undefined : EXIT.interrupted;
    });
  }
}

export class ArtifactsMeasure extends ServerCommand {
  static override description =
    `Measures how often the programs of an artifact (or of all) run on a node, and for how long. The node's kernel counts for so many seconds, which costs every eBPF program there some 20 ns a run, and not before or after. A program that is attached at several hooks has the same figures at each: those of all its runs.`;
  static override examples = [
    { description: 'For five seconds', command: 'aegis artifacts measure block-icmp --node web-1' },
    {
      description: 'Nanoseconds of a run, for a script',
      command:
        "aegis artifacts measure block-icmp -n web-1 --seconds 60 --json | jq '.artifacts[0].links[0].measured.ns_per_run'",
    },
  ];
  static override args = {
    artifact: Args.string({ ignoreStdin: true, description: 'The name of the artifact (default: all on the node)' }),
  };
  static override flags = {
    node: nodeFlag,
    seconds: Flags.integer({ min: 1, max: 3600, default: 5, helpValue: 'N', summary: 'For so long, 1 to 3600' }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(ArtifactsMeasure);
    const { seconds } = flags;
    return await this.withApi(flags, async (api) => {
      const pieces: Buffer[] = [];
      const finished = await readRemotely(
        api,
        {
          verb: 'artifacts.measure',
          args: { ...args, seconds, timeout_sec: seconds + 120 },
          node: flags.node,
          flags,
          mostBytes: MAX_ANSWER_BYTES,
          out: async (bytes) => void pieces.push(Buffer.from(bytes)),
          say: (text) => this.note(text),
        },
        this.around,
      );
      if (!finished) return EXIT.interrupted;
      const answer = JSON.parse(Buffer.concat(pieces).toString('utf8')) as MeasuredAttachments;
      if (flags.json) return await this.printJson(answer);
      await this.print(measuredText(answer, this.width));
      await this.note(measuredNote(answer));
      return undefined;
    });
  }
}
