/** topics: one class per command: parses, calls the server or a door of server and daemon, prints. Loaded by command-table.ts alone.
 *  Invariant: results on stdout, everything else on stderr, one JSON document (or NDJSON) under --json.
 *  Must not hold what two commands need: that stands in api/, following/ or ui/. */
import type { Submission, SubmitAnswer } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { type CancelBodyOf, cancelQuietly, submitted } from '../api/submitting.ts';
import { refuseTokenOnArgv, ServerCommand, serverFlags } from '../base-command.ts';
import { askOnTerminal } from '../following/ask-terminal.ts';
import { EXIT, exitStatus } from '../following/exit-status.ts';
import { type InterruptPolicy, type Interrupts, interrupts } from '../following/interrupts.ts';
import { jsonSink } from '../following/json-sink.ts';
import type { LiveSink } from '../following/live-sink.ts';
import { prefixedSink } from '../following/prefixed-sink.ts';
import { rawSink } from '../following/raw-sink.ts';
import { followSession } from '../following/session.ts';
import type { Sink } from '../following/sink.ts';
import { cancelBody, readSigned, signedSubmission } from '../signing/directives.ts';
import { keyFlags, operatorSigner } from '../signing/operator-key.ts';
import { submissionFlags, submissionOf } from '../submission-flags.ts';
import { ReaderGone } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { table } from '../ui/table.ts';

export class Submit extends ServerCommand {
  static override description =
    `Runs a command on every node that --target names or selects, and behaves as the command would: its stdout goes to stdout, its stderr to stderr, byte for byte, and its exit code is the exit code. What follows -- is the command's own argument vector; --shell hands a string to /bin/sh -c.

With several nodes each line is prefixed with its node, and a table of the results follows on stderr; on a terminal a live view takes the place of both. A node that is offline gets the command when it comes back, until --ttl has passed.

Exit codes: the remote code, or 128+n when signal n ended it; 124 timed out; with several nodes 0 (all succeeded) or 1; 251 not reached or expired, 252 refused, 253 lost or unknown, 254 internal error, 2 usage, 130 interrupted.

Ctrl-C asks whether to cancel the command or to detach from it (--on-interrupt decides beforehand; without a terminal "ask" cancels); a second Ctrl-C detaches. When the reader of stdout goes away ("| head"), the command is cancelled as a local one would be, unless --on-interrupt is detach.`;

  static override usage = [
    'submit --target TARGET [FLAGS] -- COMMAND [ARGUMENT...]',
    "submit --target TARGET [FLAGS] --shell 'STRING'",
    'submit --target TARGET [FLAGS] --verb VERB [--arg KEY=VALUE...]',
    'submit --signed FILE [FLAGS]',
  ];

  static override examples = [
    {
      description: 'The last log lines of one node',
      command: 'aegis submit --target web-1 -- journalctl -n 50 | grep error',
    },
    {
      description: 'A shell line on every production node in Frankfurt',
      command: "aegis submit -t 'site=fra and label.env=prod' --shell 'df -h /'",
    },
    {
      description: 'Feed a file to a program',
      command: 'aegis submit -t db-1 --stdin dump.sql --user postgres -- psql app',
    },
    {
      description: 'Containers, without waiting for the answer',
      command: 'aegis submit -t all --verb docker.ps --arg all=true --detach',
    },
    {
      description: 'Signed by two persons, for nodes that obey nothing less',
      command:
        'aegis submit -t db-1 --key ~/alice.key --sign-only -- reboot > reboot.json; aegis access sign reboot.json --key ~/bob.key; aegis submit --signed reboot.json',
    },
  ];

  static override strict = false;
  static override flags = {
    ...submissionFlags,
    detach: Flags.boolean({ char: 'd', summary: 'Print the command id and do not wait' }),
    prefix: Flags.boolean({ allowNo: true, summary: "Prefix lines with 'node│' (default: with several nodes)" }),
    'on-interrupt': Flags.option({
      options: ['cancel', 'detach', 'ask'] as const,
      default: 'ask' as const,
      summary: 'What Ctrl-C does',
    })(),
    'reconnect-for': Flags.integer({
      default: 600,
      min: 0,
      helpValue: 'SEC',
      summary: 'Give up after this long without the server',
    }),
    ...keyFlags,
    'sign-only': Flags.boolean({
      summary: 'Submit nothing: print what is signed, for others to sign and for --signed',
      exclusive: ['unsigned', 'signed', 'dry-run'],
      helpGroup: 'SIGNING',
    }),
    signed: Flags.string({
      helpValue: 'FILE',
      summary: "Submit what was signed with --sign-only and 'aegis access sign'",
      exclusive: ['key', 'target', 'shell', 'verb'],
      helpGroup: 'SIGNING',
    }),
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const given = this.argv; // parsing replaces it
    const dashes = given.indexOf('--');
    const remote = dashes === -1 ? null : given.slice(dashes + 1);
    const { flags, argv: extra } = await this.parse(Submit, remote ? given.slice(0, dashes) : given);
    refuseTokenOnArgv(flags);
    if (extra.length > 0)
      throw new AegisError(
        'cli.usage',
        `Write the command after --: aegis submit --target … -- ${plainText(extra.join(' '))}`,
      );
    const { signed } = flags;
    if (signed !== undefined && remote)
      throw new AegisError('cli.usage', 'What --signed names says what is to run: leave out what follows --.');
    const asked =
      signed === undefined ? submissionOf(flags, remote, this.around) : await submissionSigned(signed, flags);
    return await this.withApi(flags, async (api) => {
      const signer = signed === undefined && !flags['dry-run'] ? await operatorSigner(api, flags, this.around) : null;
      if (flags['sign-only'] && signer === null)
        throw new AegisError('cli.usage', 'There is no key to sign with: give --key FILE, or set AEGIS_KEY.');
      const submission = await signedSubmission(signer, asked, this.around.now());
      if (flags['sign-only']) return await this.printJson(submission.directive);
      const answer = await submitted(api, submission, this.around);
      const cancelling: CancelBodyOf = (id) => cancelBody(signer, id, undefined, this.around.now());
      if (answer.command_id === null) return await this.showTargets(answer, flags.json);
      if (flags.detach) return flags.json ? await this.printJson(answer) : await this.print(`${answer.command_id}\n`);
      const title = plainText(flags.shell ?? remote?.join(' ') ?? flags.verb ?? '');
      return await this.follow(api, answer, answer.command_id, title, cancelling, flags);
    });
  }

  private async showTargets({ targets }: SubmitAnswer, json: boolean): Promise<undefined> {
    if (json) return await this.printJson({ dry_run: true, targets });
    const rows = targets.map(({ name, status, matched_by }) => [name, status, matched_by]);
    await this.print(table(['NODE', 'STATUS', 'MATCHED BY'], rows, this.width));
    await this.note(`dry run: it would reach ${targets.length === 1 ? 'this node' : `these ${targets.length} nodes`}.`);
  }

  private async follow(
    api: Api,
    answer: SubmitAnswer,
    id: string,
    title: string,
    cancelling: CancelBodyOf,
    flags: {
      json: boolean;
      prefix?: boolean;
      'on-interrupt': InterruptPolicy;
      'reconnect-for': number;
    },
  ): Promise<number> {
    const { output, now, pause } = this.around;
    const several = answer.targets.length > 1;
    const where = several ? `${answer.targets.length} nodes` : (answer.targets[0]?.name ?? 'the node');
    const live =
      several &&
      !flags.json &&
      flags.prefix === undefined &&
      output.outIsTerminal &&
      output.errIsTerminal &&
      this.around.env.TERM !== 'dumb';
    let view: LiveSink | null = null;
    let sink: Sink;
    if (flags.json) sink = jsonSink(output);
    else if (live)
      sink = view = await (await import('../following/live-sink.ts')).liveSink(
        output,
        now,
        title,
        answer.targets.map(({ name }) => name),
      );
    else if (flags.prefix ?? several) sink = prefixedSink(output, now, { summary: several });
    else sink = rawSink(output);
    if (!live && !flags.json) await this.sayWhoIsAway(answer);

    const canAsk = process.stdin.isTTY === true && output.errIsTerminal && !flags.json;
    const stop: Interrupts = interrupts({
      policy: flags['on-interrupt'],
      ask: view && canAsk ? view.ask : canAsk ? () => askOnTerminal(output, where) : null,
      cancel: async () => void (await api.call(routes.cancelCommand, { params: { id }, body: await cancelling(id) })),
      say: async (text) => (live ? undefined : await this.note(text)),
    });
    view?.onStrike(stop.strike);
    const options = {
      follow: true,
      signal: stop.letGo,
      giveUpAfterMs: flags['reconnect-for'] * 1000,
      now,
      pause,
      onOutage: (state: 'lost' | 'back') => {
        if (!live)
          void this.note(state === 'lost' ? 'lost the server; trying to reach it again.' : 'the server is back.');
      },
    };
    try {
      if (flags.json) await output.out(`${JSON.stringify({ type: 'submitted', ...answer })}\n`);
      const outcome = await followSession(api, id, sink, options);
      if (outcome === null) {
        await sink.close();
        await this.note(`let go of the command; it goes on. Follow it again: aegis logs -f ${id}`);
        return EXIT.interrupted;
      }
      return stop.interrupted ? EXIT.interrupted : exitStatus(outcome.executions, several);
    } catch (error) {
      if (error instanceof ReaderGone && flags['on-interrupt'] !== 'detach') await cancelQuietly(api, id, cancelling);
      throw error;
    } finally {
      stop.stop();
      await sink.close();
    }
  }

  private async sayWhoIsAway({ targets, expires_at }: SubmitAnswer): Promise<void> {
    if (!this.around.output.errIsTerminal) return;
    const away = targets.filter(({ status }) => status === 'offline' || status === 'maintenance');
    const [first] = away;
    if (!first) return;
    const who = away.length === 1 ? `${plainText(first.name)} is ${first.status}` : `${away.length} nodes are away`;
    await this.note(`${who}; the command waits until ${expires_at}.`);
  }
}

/** What was signed, and how it is to go where the signature leaves that open. */
const submissionSigned = async (
  file: string,
  flags: {
    'correlation-id'?: string | undefined;
    'idempotency-key'?: string | undefined;
    retries?: number | undefined;
  },
): Promise<Partial<Submission>> => {
  const { envelope, directive } = await readSigned(file);
  const { submissionOfDirective } = await import('@aegis/protocol/commands/signed');
  return {
    ...submissionOfDirective(directive),
    directive: envelope,
    ...(flags.retries === undefined ? {} : { max_retries: flags.retries }),
    ...(flags['correlation-id'] === undefined ? {} : { correlation_id: flags['correlation-id'] }),
    ...(flags['idempotency-key'] === undefined ? {} : { idempotency_key: flags['idempotency-key'] }),
  };
};
