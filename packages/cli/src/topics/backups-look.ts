import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import type { ServerFlags } from '../api/settings.ts';
import { knownNodesPath, readKnownNodes } from '../backups/known-nodes.ts';
import type { OpenedRun, OpenWith } from '../backups/open-run.ts';
import { terminalView } from '../backups/progress-view.ts';
import { runNamed } from '../backups/run-reference.ts';
import { runAndRest, type SourceFlags, sourceFlags } from '../backups/source-flags.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { lineQueue } from '../ui/line-queue.ts';
import { ReaderGone } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { byteCount } from '../ui/time.ts';

const flagsOfAll = { ...sourceFlags, ...serverFlags };

/** Commands that open a backup on this machine. */
export abstract class OpeningCommand extends ServerCommand {
  /** @param asked RUN; null with --from */
  protected async withRun<T>(
    asked: string | null,
    flags: SourceFlags & ServerFlags,
    work: (opened: OpenedRun, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { openFolder, openLinked } = await import('../backups/open-run.ts');
    return await untilInterrupted(async (signal) => {
      const options: OpenWith = {
        identities: flags.identity ?? [],
        known: readKnownNodes(knownNodesPath(this.around.env)),
        nodeKeys: flags['node-key'] ?? [],
        signal,
      };
      try {
        if (asked === null) {
          await using opened = await openFolder(flags.from ?? '.', options);
          return await work(opened, signal);
        }
        return await this.withApi(flags, async (api) => {
          const run = await runNamed(api, asked);
          await using opened = await openLinked(api, run, asked, options);
          return await work(opened, signal);
        });
      } catch (error) {
        throw signal.aborted && !(error instanceof AegisError && error.code === 'backups.restore_incomplete')
          ? new AegisError('cli.interrupted', 'It was told to stop.', { cause: error })
          : error;
      }
    });
  }
}

/** What was ended because nobody reads its lines any more ends quietly. @throws ReaderGone */
export const orReaderGone = async <T>(work: Promise<T>, gone: AbortSignal): Promise<T> => {
  try {
    return await work;
  } catch (error) {
    throw gone.aborted ? new ReaderGone('standard output was closed') : error;
  }
};

export class BackupsLs extends OpeningCommand {
  static override description =
    `Lists what a backup holds, as 'ls -l' does, from its signed manifest: everything; or what stands right in PATH, when that is a folder; or all below it with -R. 'h' marks a hard link, with '=' before its first name. Names with control characters or other bytes than UTF-8 are shown in octal; --json prints an object for each entry, path_b64 in place of path where it is not UTF-8.`;
  static override usage = ['backups ls RUN [PATH] [FLAGS]', 'backups ls --from DIR [PATH] [FLAGS]'];
  static override examples = [
    { description: 'A folder in the newest backup', command: 'aegis backups ls latest:etc@web-1 /etc/ssl' },
    {
      description: 'The ten largest files of an encrypted one',
      command: "aegis backups ls 01981c2e-7f3a -i backup.key --json | jq -r '[.size, .path] | @tsv' | sort -rn | head",
    },
  ];
  static override strict = false;
  static override flags = {
    recursive: Flags.boolean({ char: 'R', summary: 'All below PATH' }),
    ...flagsOfAll,
  };

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(BackupsLs);
    const { run, rest } = runAndRest(argv, flags, 'ls RUN [PATH]', 1);
    const { listEntries } = await import('../backups/looking.ts');
    await this.withRun(run, flags, async ({ backup }) => {
      await listEntries(backup, rest[0], flags.recursive, { output: this.around.output, json: flags.json });
    });
  }
}

export class BackupsCat extends OpeningCommand {
  static override description =
    'Writes one file of a backup to standard output, byte for byte; only the parts of the archive that hold it are fetched. Its hash is compared at the end: exit code 0 says that all of it was right.';
  static override usage = ['backups cat RUN PATH [FLAGS]', 'backups cat --from DIR PATH [FLAGS]'];
  static override examples = [
    { description: 'How it was', command: 'aegis backups cat latest:etc@web-1 /etc/hosts | diff - /etc/hosts' },
    {
      description: 'From an encrypted backup on a disk',
      command: 'aegis backups cat --from /mnt/run -i backup.key /srv/db.sql >db.sql',
    },
  ];
  static override strict = false;
  static override flags = flagsOfAll;

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(BackupsCat);
    const { run, rest } = runAndRest(argv, flags, 'cat RUN PATH', 1);
    const [path] = rest;
    if (path === undefined) throw new AegisError('cli.usage', 'Name the file: aegis backups cat RUN PATH.');
    const { writeContent } = await import('../backups/looking.ts');
    await this.withRun(run, flags, ({ backup }) => writeContent(backup, path, this.around.output));
  }
}

export class BackupsDiff extends OpeningCommand {
  static override description =
    "Shows what changed from one backup to another, by their signed manifests: '+' came, '-' went, 'M' changed, and in what. No archive is fetched.";
  static override usage = ['backups diff RUN RUN [FLAGS]'];
  static override examples = [
    { description: 'Since the backup before', command: 'aegis backups diff 01981c2e-7f3a latest:etc@web-1' },
    {
      description: 'Whose content changed',
      command:
        'aegis backups diff 01981c2e-7f3a 01981d55-2b1c --json | jq -r \'select(.fields | index("content")) | .path\'',
    },
  ];
  static override strict = false;
  static override flags = { identity: sourceFlags.identity, 'node-key': sourceFlags['node-key'], ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(BackupsDiff);
    const [before, after, more] = argv.map(String);
    if (before === undefined || after === undefined || more !== undefined)
      throw new AegisError('cli.usage', 'Name two runs: aegis backups diff RUN RUN.');
    const { writeDifferences } = await import('../backups/looking.ts');
    const { output } = this.around;
    await this.withRun(before, flags, (older) =>
      this.withRun(after, flags, async (newer) => {
        const count = await writeDifferences(older.backup, newer.backup, { output, json: flags.json });
        if (count === 0 && !flags.json) await this.note('nothing changed.');
      }),
    );
  }
}

const shareOf = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined;
  const share = /^\d+(\.\d+)?%$/.test(text) ? Number(text.slice(0, -1)) / 100 : Number(text);
  if (share > 0 && share <= 1) return share;
  throw new AegisError('cli.usage', `--sample ${plainText(text)}: write a share such as 5% or 0.05.`);
};

export class BackupsVerify extends OpeningCommand {
  static override description =
    `Fetches a backup and checks it: the statement's signature by the node's key that you trust, the hashes of manifest and archive, and every file's hash. With --sample only a part of the archive is fetched, chosen by chance. With --server-side the server fetches and compares the objects with the statement; it needs no identity, and sees no file.

Exit code: 0 when all is as it should be, 1 when not.`;
  static override usage = ['backups verify RUN [FLAGS]', 'backups verify --from DIR [FLAGS]'];
  static override examples = [
    { description: 'All of it', command: 'aegis backups verify latest:etc@web-1' },
    { description: 'A twentieth', command: 'aegis backups verify latest:db@db-1 --sample 5% -i backup.key' },
    { description: 'On the server', command: 'aegis backups verify latest:db@db-1 --server-side' },
  ];
  static override strict = false;
  static override flags = {
    sample: Flags.string({ helpValue: 'SHARE', summary: 'Check this share of the archive, such as 5%' }),
    'server-side': Flags.boolean({
      summary: 'Let the server do it; nothing is fetched to here',
      exclusive: ['sample', 'identity', 'from', 'node-key'],
    }),
    ...flagsOfAll,
  };

  async run(): Promise<number> {
    const { flags, argv } = await this.parse(BackupsVerify);
    const sample = shareOf(flags.sample);
    const { run: asked } = runAndRest(argv, flags, 'verify RUN', 0);
    if (flags['server-side'] && asked !== null) return await this.onServer(asked, flags);
    const { errorsJson, errorTexts, progressJson, progressOfRestore } = await import('../backups/looking.ts');
    return await this.withRun(asked, flags, async ({ backup, node, runId }, signal) => {
      const view = flags.json ? null : terminalView(this.around);
      const gone = new AbortController();
      const lines = lineQueue(this.around.output, () => gone.abort());
      const total = backup.statement.archive.bytes * (sample ?? 1);
      const work = backup.verify({
        ...(sample === undefined ? {} : { sample }),
        signal: AbortSignal.any([signal, gone.signal]),
        onProgress: (progress) =>
          view
            ? void view.show(node?.name ?? 'backup', progressOfRestore('checking', progress, total))
            : lines.line(JSON.stringify(progressJson(progress))),
      });
      const result = await orReaderGone(work, gone.signal);
      await view?.clear();
      await lines.flush();
      const good = result.errorCount === 0;
      if (flags.json)
        await this.printJson({
          type: 'verify',
          run_id: runId,
          ok: good,
          signed_by: backup.signedBy,
          entries: result.entries,
          bytes: result.bytes,
          archive_bytes: result.archiveBytes,
          archive_verified: result.archiveVerified,
          error_count: result.errorCount,
          errors: errorsJson(result),
        });
      else {
        await this.print(
          facts([
            ['verified', good ? 'good' : 'NOT as it was signed'],
            ['signed by', node ? `${node.name} (${backup.signedBy})` : backup.signedBy],
            ['checked', `${result.entries} entries, ${byteCount(result.bytes)}`],
            ['fetched', `${byteCount(result.archiveBytes)} of ${byteCount(backup.statement.archive.bytes)}`],
            ['archive', result.archiveVerified ? 'whole, SHA-256 is the signed one' : 'a part of it'],
          ]),
        );
        for (const line of errorTexts(result)) await this.note(plainText(line));
      }
      return good ? 0 : 1;
    });
  }

  private async onServer(asked: string, flags: ServerFlags & { json: boolean }): Promise<number> {
    return await this.withApi(flags, async (api) => {
      const { run_id: id } = await runNamed(api, asked);
      const run = await api.call(routes.verifyRun, { params: { id } });
      if (flags.json) await this.printJson(run);
      else
        await this.print(
          facts([
            ['verified', run.verified?.ok ? 'good, by the server' : 'NOT good'],
            ['run', run.run_id],
            ['says', run.verified?.message],
          ]),
        );
      return run.verified?.ok ? 0 : 1;
    });
  }
}
