import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import type { Submission } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Surroundings } from './surroundings.ts';
import { secondsOf } from './ui/time.ts';

/** `submit`'s flags that say what is to run, and the submission that they make. The server validates it: nothing is checked twice here. */

const WHAT = 'COMMAND';
const HOW = 'DELIVERY';
const many = { multiple: true, multipleNonGreedy: true } as const;

export const submissionFlags = {
  target: Flags.string({
    char: 't',
    ...many,
    helpValue: 'NODE|SELECTOR',
    summary: "A node's name or uid, or a selector such as 'site=fra and not label.env=prod', or 'all'; repeatable",
  }),
  shell: Flags.string({ helpValue: 'STRING', summary: 'Run this through /bin/sh -c', helpGroup: WHAT }),
  verb: Flags.string({
    helpValue: 'VERB',
    summary: 'A command type such as docker.ps, compose.up or UpdatePackage',
    helpGroup: WHAT,
  }),
  arg: Flags.string({
    ...many,
    helpValue: 'KEY=VALUE',
    summary: "The verb's parameters; true, 5, [..] and {..} are taken as JSON, KEY:=JSON always",
    helpGroup: WHAT,
  }),
  stdin: Flags.string({
    helpValue: '-|FILE',
    summary: 'Standard input of the command: ours, or a file',
    helpGroup: WHAT,
  }),
  user: Flags.string({ helpValue: 'USER', summary: 'Run as this user', helpGroup: WHAT }),
  cwd: Flags.string({ helpValue: 'DIR', summary: 'Run in this directory', helpGroup: WHAT }),
  env: Flags.string({
    ...many,
    helpValue: 'KEY=VALUE',
    summary: 'Set a variable; KEY alone takes its value from here',
    helpGroup: WHAT,
  }),
  umask: Flags.string({ helpValue: 'OCTAL', summary: 'File mode creation mask, such as 027', helpGroup: WHAT }),
  timeout: Flags.string({
    helpValue: 'TIME',
    summary: 'End it after this long, e.g. 90, 15m, 2h; 0: never (default 1h)',
    helpGroup: WHAT,
  }),
  grace: Flags.string({
    helpValue: 'TIME',
    summary: 'Time between SIGTERM and SIGKILL (default 10s)',
    helpGroup: WHAT,
  }),
  'output-limit-bytes': Flags.integer({
    min: 0,
    helpValue: 'N',
    summary: 'Keep head and tail above this much per stream; 0: keep all (default 64 MiB)',
    helpGroup: WHAT,
  }),
  priority: Flags.option({
    options: ['critical', 'high', 'normal', 'low'] as const,
    summary: 'Before which others it runs',
    helpGroup: HOW,
  })(),
  ttl: Flags.string({ helpValue: 'TIME', summary: 'Until when a node may still take it (default 1h)', helpGroup: HOW }),
  at: Flags.string({ helpValue: 'WHEN', summary: 'Start then: an RFC 3339 time, or +10m', helpGroup: HOW }),
  retries: Flags.integer({
    min: 0,
    helpValue: 'N',
    summary: 'Run it again when it fails, up to N times (default 0)',
    helpGroup: HOW,
  }),
  delivery: Flags.option({
    options: ['at-most-once', 'at-least-once'] as const,
    summary: 'Whether a lost execution is repeated',
    helpGroup: HOW,
  })(),
  'idempotency-key': Flags.string({
    helpValue: 'KEY',
    summary: 'The same key submits the same command only once',
    helpGroup: HOW,
  }),
  'correlation-id': Flags.string({ helpValue: 'ID', summary: 'Your own id, to find it by', helpGroup: HOW }),
  'dry-run': Flags.boolean({ summary: 'Show whom it would reach, and why', helpGroup: HOW }),
};

export interface SubmissionFlags {
  target?: string[] | undefined;
  shell?: string | undefined;
  verb?: string | undefined;
  arg?: string[] | undefined;
  stdin?: string | undefined;
  user?: string | undefined;
  cwd?: string | undefined;
  env?: string[] | undefined;
  umask?: string | undefined;
  timeout?: string | undefined;
  grace?: string | undefined;
  'output-limit-bytes'?: number | undefined;
  priority?: Submission['priority'] | undefined;
  ttl?: string | undefined;
  at?: string | undefined;
  retries?: number | undefined;
  delivery?: Submission['delivery'] | undefined;
  'idempotency-key'?: string | undefined;
  'correlation-id'?: string | undefined;
  'dry-run'?: boolean | undefined;
}

const usage = (message: string): AegisError => new AegisError('cli.usage', message);

/** @param argv what followed `--`, null when there was none */
export const submissionOf = (
  flags: SubmissionFlags,
  argv: readonly string[] | null,
  around: Pick<Surroundings, 'env' | 'now'>,
): Partial<Submission> => {
  const ways = [argv !== null, flags.shell !== undefined, flags.verb !== undefined].filter(Boolean).length;
  if (ways === 0) throw usage("Nothing to run: write the command after --, or use --shell 'STRING' or --verb VERB.");
  if (ways > 1) throw usage('Give one of: a command after --, --shell, --verb.');
  if (!flags.target) throw usage('Missing required flag target. See --help.');
  if (argv?.length === 0) throw usage('Nothing follows --; write the command there.');
  if (flags.arg && flags.verb === undefined) throw usage('--arg belongs to --verb.');
  const what =
    flags.verb === undefined
      ? {
          command_type: 'RunCommand',
          payload: { ...(argv ? { argv } : { cmd: flags.shell }), ...processOf(flags, around.env) },
        }
      : { verb: flags.verb, args: { ...argsOf(flags.arg ?? []), ...processOf(flags, around.env) } };
  return defined({
    ...what,
    targets: flags.target,
    priority: flags.priority,
    delivery: flags.delivery,
    max_retries: flags.retries,
    ttl_sec: flags.ttl === undefined ? undefined : Math.round(seconds('ttl', flags.ttl)),
    scheduled_at: flags.at === undefined ? undefined : instantOf(flags.at, around.now()),
    idempotency_key: flags['idempotency-key'],
    correlation_id: flags['correlation-id'],
    output_limit_bytes: flags['output-limit-bytes'],
    dry_run: flags['dry-run'] || undefined,
  });
};

const defined = <T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };

const seconds = (flag: string, text: string): number => {
  const value = secondsOf(text);
  if (value === null) throw usage(`--${flag} ${text}: not a time; write 90, 90s, 15m, 2h or 7d.`);
  return value;
};

const instantOf = (text: string, now: number): string => {
  const later = text.startsWith('+') ? secondsOf(text.slice(1)) : null;
  const time = later === null ? Date.parse(text) : now + later * 1000;
  if (Number.isNaN(time)) throw usage(`--at ${text}: not a time; write 2026-01-31T08:00:00Z or +10m.`);
  return new Date(time).toISOString();
};

const processOf = (flags: SubmissionFlags, env: Surroundings['env']) =>
  defined({
    ...(flags.stdin === undefined ? {} : stdinOf(flags.stdin)),
    user: flags.user,
    cwd: flags.cwd,
    umask: flags.umask,
    env: flags.env ? Object.fromEntries(flags.env.map((pair) => variableOf(pair, env))) : undefined,
    timeout_sec: flags.timeout === undefined ? undefined : seconds('timeout', flags.timeout),
    grace_sec: flags.grace === undefined ? undefined : seconds('grace', flags.grace),
  });

const variableOf = (pair: string, env: Surroundings['env']): [string, string] => {
  const at = pair.indexOf('=');
  const name = at === -1 ? pair : pair.slice(0, at);
  const value = at === -1 ? env[name] : pair.slice(at + 1);
  if (name === '' || value === undefined)
    throw usage(`--env ${name}: give KEY=VALUE, or the name of a variable that is set here.`);
  return [name, value];
};

const argsOf = (pairs: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      if (at < 1) throw usage(`--arg ${pair}: write KEY=VALUE or KEY:=JSON.`);
      const text = pair.slice(at + 1);
      if (pair[at - 1] === ':') return [pair.slice(0, at - 1), jsonOf(text, pair)];
      return [
        pair.slice(0, at),
        /^(true|false|null|-?\d{1,15}|\[.*\]|\{.*\})$/s.test(text) ? jsonOf(text, pair) : text,
      ];
    }),
  );

const jsonOf = (text: string, pair: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    throw usage(`--arg ${pair}: the value is not JSON.`);
  }
};

/** What base64 makes of this much still fits the server's limit. */
const MAX_STDIN_BYTES = 4 * 1024 * 1024;

const stdinOf = (source: string): { stdin: string; stdin_encoding: 'utf8' | 'base64' } => {
  let bytes: Buffer;
  try {
    bytes = readFileSync(source === '-' ? 0 : source);
  } catch (error) {
    throw usage(`--stdin ${source}: cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown reason'}).`);
  }
  if (bytes.length > MAX_STDIN_BYTES)
    throw usage(
      `--stdin ${source}: ${bytes.length} bytes are more than the ${MAX_STDIN_BYTES} that a command can carry. Have the node fetch them.`,
    );
  const encoding = isUtf8(bytes) ? 'utf8' : 'base64';
  return { stdin: bytes.toString(encoding), stdin_encoding: encoding };
};
