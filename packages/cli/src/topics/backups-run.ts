import type { SubmitAnswer } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import type { ServerFlags } from '../api/settings.ts';
import { submitted } from '../api/submitting.ts';
import { errorLines, exitOf, runEnds } from '../backups/end-text.ts';
import type { NodeEnd } from '../backups/node-lines.ts';
import { type Followed, type Following, followNodes } from '../backups/on-nodes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { localFlags } from '../daemon-flags.ts';
import { EXIT } from '../following/exit-status.ts';
import type { InterruptPolicy } from '../following/interrupts.ts';
import { withSignature } from '../signing/directives.ts';
import { keyFlags } from '../signing/operator-key.ts';
import { plainText } from '../ui/plain-text.ts';
import { secondsOf } from '../ui/time.ts';
import { configArg } from './backups-configs.ts';

const HERE = 'ON A NODE';

export const interruptFlag = Flags.option({
  options: ['cancel', 'detach', 'ask'] as const,
  default: 'ask' as const,
  summary: 'What Ctrl-C does',
})();

export class BackupsRun extends ServerCommand {
  static override description =
    `Runs a configuration now, beside its schedule, on nodes that have it, and tells how each ended; with --follow how far they are, too. Ctrl-C asks whether to cancel the runs or to let them go on.

A configuration of the control server's own files (--mode server) runs there, and takes no --node. On a node itself, with --once, it needs no server's address and no token: it asks this machine's daemon through its socket, as cron would.

Exit code: 0 completed, 3 completed with errors (some file could not be read, or changed meanwhile; 'aegis backups show RUN' says which), 1 failed or cancelled, 130 interrupted.`;
  static override usage = [
    'backups run NAME --node NODE... [FLAGS]',
    'backups run NAME [FLAGS]',
    'backups run NAME --once [FLAGS]',
  ];
  static override examples = [
    { description: 'With a progress bar', command: 'aegis backups run etc --node web-1 --follow' },
    { description: 'On all of a site, without waiting', command: "aegis backups run etc --node 'site=fra' --detach" },
    { description: "From the node's own cron", command: 'aegis backups run --once --quiet etc' },
  ];
  static override args = { name: configArg };
  static override flags = {
    node: Flags.string({
      char: 'n',
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'NODE|SELECTOR',
      summary: 'Where; repeatable',
    }),
    follow: Flags.boolean({ char: 'f', summary: 'Show how far they are' }),
    quiet: Flags.boolean({ char: 'q', summary: 'Say nothing when all completed', exclusive: ['json', 'follow'] }),
    detach: Flags.boolean({ char: 'd', summary: "Print the command's id and do not wait", exclusive: ['follow'] }),
    'on-interrupt': interruptFlag,
    timeout: Flags.string({
      default: '1d',
      helpValue: 'TIME',
      summary: 'End it after this long, when its own limit has not (default 1d)',
    }),
    once: Flags.boolean({
      summary: "Ask this machine's daemon",
      exclusive: ['node', 'detach'],
      helpGroup: HERE,
    }),
    'data-dir': { ...localFlags['data-dir'], helpGroup: HERE },
    'daemon-config': { ...localFlags.config, helpGroup: HERE },
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags, args } = await this.parse(BackupsRun);
    if (flags.once) {
      const { runHere } = await import('../backups/here.ts');
      const end = await runHere(
        { op: 'backup-run', config: args.name },
        { ...flags, config: flags['daemon-config'], progress: flags.follow || flags.json, around: this.around },
      );
      return await this.ended([end], flags, true);
    }
    const targets = flags.node ?? [];
    if (targets.length === 0) return await this.onServer(args.name, flags);
    const timeout_sec = secondsOf(flags.timeout);
    if (timeout_sec === null)
      throw new AegisError('cli.usage', `--timeout ${plainText(flags.timeout)}: not a time; write 90, 15m, 2h or 7d.`);
    return await this.withApi(flags, async (api) => {
      const submission = { verb: 'backups.run', args: { config: args.name, timeout_sec }, targets };
      const answer = await submitted(api, await withSignature(api, submission, flags, this.around), this.around);
      if (answer.command_id === null) return undefined;
      if (flags.detach) return flags.json ? await this.printJson(answer) : await this.print(`${answer.command_id}\n`);
      return await this.follow(api, answer, answer.command_id, flags);
    });
  }

  /** Only a configuration of the server's own files needs no node; of any other the server says that it does. */
  private async onServer(
    name: string,
    flags: ServerFlags & Telling & { follow: boolean; detach: boolean; 'on-interrupt': InterruptPolicy },
  ): Promise<number | undefined> {
    const { followRun, runOnServer } = await import('../backups/on-server.ts');
    return await this.withApi(flags, async (api) => {
      const run = await runOnServer(api, name);
      if (flags.detach) return flags.json ? await this.printJson(run) : await this.print(`${run.run_id}\n`);
      return await this.told(await followRun(api, run, this.following(flags)), flags);
    });
  }

  private following(flags: { json: boolean; follow: boolean; 'on-interrupt': InterruptPolicy }): Following {
    return {
      json: flags.json,
      progress: flags.follow,
      policy: flags['on-interrupt'],
      around: this.around,
      say: (text) => this.note(text),
    };
  }

  private async follow(
    api: Api,
    answer: SubmitAnswer,
    id: string,
    flags: Telling & { follow: boolean; 'on-interrupt': InterruptPolicy },
  ): Promise<number> {
    return await this.told(await followNodes(api, answer, id, this.following(flags)), flags);
  }

  private async told({ ends, interrupted, letGo }: Followed, flags: Telling): Promise<number> {
    if (letGo) {
      await this.note("let go of it; it goes on. See 'aegis backups runs --state running --watch'.");
      return EXIT.interrupted;
    }
    const code = await this.ended(ends, flags, false);
    return interrupted ? EXIT.interrupted : code;
  }

  private async ended(ends: readonly NodeEnd[], { json, quiet }: Telling, here: boolean): Promise<number> {
    const code = exitOf(ends);
    if (json) {
      if (!here) await this.printJson({ type: 'result', nodes: ends.map(endJson) });
      return code;
    }
    if (quiet && code === 0) return code;
    await this.print(runEnds(ends, this.width));
    for (const { node, fields } of ends)
      for (const line of fields ? errorLines(fields) : [])
        await this.note(`${ends.length > 1 ? `${plainText(node)}: ` : ''}${plainText(line)}`);
    return code;
  }
}

interface Telling {
  json: boolean;
  quiet: boolean;
}

/** As docs/cli-json.md has it. */
export const endJson = ({ node, fields, refusal, why }: NodeEnd) => ({
  node,
  ...(fields ?? { state: 'failed' }),
  ...(fields
    ? {}
    : { reason: refusal ? { code: refusal.code, message: refusal.message } : { code: null, message: why } }),
});
