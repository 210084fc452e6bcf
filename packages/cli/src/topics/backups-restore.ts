import type { RestoreResult } from '@aegis/archive/backup/restore/backup';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { ServerFlags } from '../api/settings.ts';
import { errorLines, exitOf, restoreEnds, WITH_ERRORS } from '../backups/end-text.ts';
import { knownNodesPath, readKnownNodes } from '../backups/known-nodes.ts';
import { countOf, type Fields, type NodeEnd } from '../backups/node-lines.ts';
import { followNodes } from '../backups/on-nodes.ts';
import { terminalView } from '../backups/progress-view.ts';
import { type RestoreWish, wishFlags, wishOf } from '../backups/restore-wish.ts';
import { runNamed } from '../backups/run-reference.ts';
import { runAndRest, type SourceFlags, sourceFlags } from '../backups/source-flags.ts';
import { serverFlags } from '../base-command.ts';
import { localFlags } from '../daemon-flags.ts';
import { EXIT } from '../following/exit-status.ts';
import { keyFlags } from '../signing/operator-key.ts';
import { lineQueue } from '../ui/line-queue.ts';
import { ReaderGone } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { byteCount, secondsOf } from '../ui/time.ts';
import { OpeningCommand, orReaderGone } from './backups-look.ts';
import { endJson, interruptFlag } from './backups-run.ts';

const PLACE = 'WHERE';

export class BackupsRestore extends OpeningCommand {
  static override description =
    `Restores a backup below --target: to this machine (default), or on a node with --node, or on the node where it is called with --on-this-node. Nothing is believed but what a node that you trust has signed ('aegis nodes trust'); each file is checked, and gets its name only then. No symbolic link leads out of the target. Without --owners everything belongs to whoever restores.

An encrypted backup needs its age identity; for a node it is sealed to that node's key, so that the server cannot read it. With --from DIR neither a server nor a node is needed; and without Aegis 'age -d | zstd -d | tar -x' does (docs/backups.md).

Exit code: 0 restored, 3 restored with errors (each is named), 1 failed, or nothing matched --path, 130 interrupted.`;
  static override usage = [
    'backups restore RUN --target DIR [FLAGS]',
    'backups restore RUN --node NODE --target DIR [FLAGS]',
    'backups restore --from DIR --target DIR [FLAGS]',
  ];
  static override examples = [
    {
      description: 'The newest backup, to look at it',
      command: 'aegis backups restore latest:etc@web-1 -t ./etc-of-web-1',
    },
    {
      description: 'One folder, in place, on the node itself',
      command: "aegis backups restore latest:srv@web-1 --node web-1 -t / --path '/srv/www' --overwrite always --owners",
    },
    {
      description: 'From a disk, encrypted, without any server',
      command: 'aegis backups restore --from /mnt/run -i backup.key --node-key web-1.pub -t ./restored',
    },
  ];
  static override strict = false;
  static override flags = {
    ...wishFlags,
    ...sourceFlags,
    node: Flags.string({ char: 'n', helpValue: 'NODE', summary: 'On this node', helpGroup: PLACE }),
    'on-this-node': Flags.boolean({
      summary: 'On the node where this is called, by its daemon',
      exclusive: ['node', 'from'],
      helpGroup: PLACE,
    }),
    'on-interrupt': interruptFlag,
    timeout: Flags.string({
      default: '1d',
      helpValue: 'TIME',
      summary: 'On a node: end it after this long (default 1d)',
    }),
    'data-dir': { ...localFlags['data-dir'], helpGroup: PLACE },
    'daemon-config': { ...localFlags.config, helpGroup: PLACE },
    'sealed-identities': Flags.string({ hidden: true }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number> {
    const { flags, argv } = await this.parse(BackupsRestore);
    const { run } = runAndRest(argv, flags, 'restore RUN --target DIR', 0);
    const wish = wishOf(flags, flags.node !== undefined || flags['on-this-node']);
    if (flags['on-this-node']) return await this.here(run ?? '', wish, flags);
    if (flags.node === undefined) return await this.local(run, wish, flags);
    const timeoutSec = secondsOf(flags.timeout);
    if (timeoutSec === null)
      throw new AegisError('cli.usage', `--timeout ${plainText(flags.timeout)}: not a time; write 90, 15m, 2h or 7d.`);
    return await this.onNode(run ?? '', flags.node, timeoutSec, wish, flags);
  }

  private async local(run: string | null, wish: RestoreWish, flags: SourceFlags & ServerFlags & { json: boolean }) {
    const { errorsJson, errorTexts, progressJson, progressOfRestore } = await import('../backups/looking.ts');
    const { pathJson, pathText } = await import('../backups/entry-text.ts');
    return await this.withRun(run, flags, async ({ backup, node, runId }, signal) => {
      const view = flags.json ? null : terminalView(this.around);
      const total = wish.paths.length > 0 || wish.dry_run ? null : backup.statement.archive.bytes;
      // Nobody reads what would happen: no need to go on. A real restore goes on, and tells by its exit code.
      const gone = new AbortController();
      const lines = lineQueue(this.around.output, () => wish.dry_run && gone.abort());
      const json = (value: unknown): void => lines.line(JSON.stringify(value));
      const work = backup.restore({
        target: wish.target,
        paths: wish.paths,
        overwrite: wish.overwrite,
        dryRun: wish.dry_run,
        deleteExtra: wish.delete,
        owners: wish.owners,
        setuid: wish.setuid,
        signal: AbortSignal.any([signal, gone.signal]),
        onProgress: (progress) =>
          view
            ? void view.show(node?.name ?? 'backup', progressOfRestore('restoring', progress, total))
            : json(progressJson(progress)),
        ...(wish.dry_run
          ? {
              onEntry: (action, path) =>
                flags.json
                  ? json({ type: 'entry', action, ...pathJson(path) })
                  : lines.line(`${SIGN[action]} ${pathText(path)}`),
            }
          : {}),
      });
      const result = await orReaderGone(work, gone.signal);
      await view?.clear();
      if (flags.json)
        json({
          type: 'restore',
          state: result.errorCount > 0 ? 'completed_with_errors' : 'completed',
          run_id: runId,
          signed_by: backup.signedBy,
          dry_run: wish.dry_run,
          restored: result.restored,
          skipped: result.skipped,
          deleted: result.deleted,
          bytes: result.bytes,
          archive_verified: result.archiveVerified,
          error_count: result.errorCount,
          errors: errorsJson(result),
        });
      else {
        lines.line(resultFacts(result, wish).trimEnd());
        for (const line of errorTexts(result)) await this.note(plainText(line));
        const more = result.errorCount - result.errors.length;
        if (more > 0) await this.note(`and ${more} more.`);
      }
      const nothing = nothingMatched(wish, result.restored + result.skipped + result.errorCount);
      if (nothing !== null) await this.note(nothing);
      const code = nothing !== null ? 1 : result.errorCount > 0 ? WITH_ERRORS : 0;
      await lines.flush().catch((error: unknown) => {
        if (!(error instanceof ReaderGone)) throw error;
      });
      return code;
    });
  }

  private async onNode(
    asked: string,
    node: string,
    timeoutSec: number,
    wish: RestoreWish,
    flags: SourceFlags & ServerFlags & { json: boolean; 'on-interrupt': 'cancel' | 'detach' | 'ask' },
  ): Promise<number> {
    if (flags.from !== undefined || flags['node-key'])
      throw new AegisError('cli.usage', '--from and --node-key are for restoring here: leave out --node.');
    const { submitRestore } = await import('../backups/restore-on-node.ts');
    return await this.withApi(flags, async (api) => {
      const run = await runNamed(api, asked);
      const known = readKnownNodes(knownNodesPath(this.around.env));
      const identities = flags.identity ?? [];
      const answer = await submitRestore(api, { run, node, wish, identities, known, timeoutSec }, flags, this.around);
      if (answer.command_id === null) return 1;
      const { ends, interrupted, letGo } = await followNodes(api, answer, answer.command_id, {
        json: flags.json,
        progress: flags.json || this.around.output.errIsTerminal,
        policy: flags['on-interrupt'],
        around: this.around,
        say: (text) => this.note(text),
      });
      if (letGo) {
        await this.note(`let go of it; it goes on. Follow it again: aegis logs -f ${answer.command_id}`);
        return EXIT.interrupted;
      }
      const code = await this.ended(ends, flags.json, false, wish);
      return interrupted ? EXIT.interrupted : code;
    });
  }

  private async here(
    run: string,
    wish: RestoreWish,
    flags: SourceFlags & {
      json: boolean;
      'data-dir'?: string | undefined;
      'daemon-config'?: string | undefined;
      'sealed-identities'?: string | undefined;
    },
  ): Promise<number> {
    const { isUuid } = await import('@aegis/protocol/ids');
    if (!isUuid(run))
      throw new AegisError('cli.usage', "Here a run is named by its whole id: 'aegis backups list --json' shows it.");
    const node_keys = flags['node-key'] ?? [];
    if (node_keys.some((key) => !/^[0-9a-f]{64}$/.test(key)))
      throw new AegisError('cli.usage', 'With --on-this-node, --node-key is a key id: 64 hexadecimal digits.');
    const { ownSealingKey, runHere } = await import('../backups/here.ts');
    const place = { 'data-dir': flags['data-dir'], config: flags['daemon-config'] };
    const sealed = await this.sealed(flags, () => ownSealingKey(place, this.around.env));
    const end = await runHere(
      {
        op: 'backup-restore',
        run_id: run,
        ...wish,
        node_keys,
        ...(sealed === null ? {} : { sealed_identities: sealed }),
      },
      { ...place, json: flags.json, progress: this.around.output.errIsTerminal, around: this.around },
    );
    return await this.ended([end], flags.json, true, wish);
  }

  private async sealed(
    flags: SourceFlags & { 'sealed-identities'?: string | undefined },
    key: () => Promise<Buffer>,
  ): Promise<string | null> {
    if (flags['sealed-identities'] !== undefined) {
      const { readIdentityText } = await import('../backups/identities.ts');
      return readIdentityText(flags['sealed-identities']).trim();
    }
    if (!flags.identity) return null;
    const { sealedIdentities } = await import('../backups/sealing.ts');
    return sealedIdentities(flags.identity, await key());
  }

  private async ended(ends: readonly NodeEnd[], json: boolean, here: boolean, wish: RestoreWish): Promise<number> {
    const counted = ends.reduce((sum, { fields }) => sum + (fields ? entriesOf(fields) : 0), 0);
    const nothing = exitOf(ends) === 0 ? nothingMatched(wish, counted) : null;
    if (json && !here) await this.printJson({ type: 'result', nodes: ends.map(endJson) });
    if (nothing !== null) await this.note(nothing);
    if (json) return nothing === null ? exitOf(ends) : 1;
    await this.print(restoreEnds(ends, this.width));
    for (const { fields } of ends)
      for (const line of fields ? errorLines(fields) : []) await this.note(plainText(line));
    return nothing === null ? exitOf(ends) : 1;
  }
}

const entriesOf = (fields: Fields): number => (countOf(fields.restored) ?? 0) + (countOf(fields.skipped) ?? 0);

/** A mistyped path must not look like a restore. */
const nothingMatched = ({ paths }: RestoreWish, entries: number): string | null =>
  paths.length === 0 || entries > 0
    ? null
    : `nothing in the backup matches ${plainText(paths.map((path) => `'${path}'`).join(', '))}: 'aegis backups ls RUN' shows what it has.`;

const SIGN = { restored: '+', skipped: '=', deleted: '-' } as const;

const resultFacts = (result: RestoreResult, { dry_run, target }: RestoreWish): string =>
  facts([
    [dry_run ? 'would restore' : 'restored', `${result.restored} below ${target}`],
    ['skipped', result.skipped > 0 ? `${result.skipped}, which are there already` : null],
    [dry_run ? 'would delete' : 'deleted', result.deleted > 0 ? String(result.deleted) : null],
    ['written', dry_run ? null : byteCount(result.bytes)],
    ['errors', result.errorCount > 0 ? String(result.errorCount) : null],
  ]);
